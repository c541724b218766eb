// NEON of 64-bit ARM: vectors of 16 bytes, with products of four bytes (dotprod) and of BF16 where the CPU has them.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "blocks.h"
#include "few_columns.h"

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#define FEW_COLUMNS_BF16 1
#else
#define FEW_COLUMNS_BF16 0
#endif

namespace few_columns {

constexpr int VECTOR = 32;
constexpr int FLOAT_LANES = 4;
constexpr int HALVES_AT_ONCE = FEW_COLUMNS_BF16 ? 8 : 0;
constexpr int MOST_FLOAT_COLUMNS = GROUP;
constexpr int COLUMN_OFFSET = 0;
constexpr bool SUMS_ARE_INT32 = false;

inline void prefetch(const void * address) { __builtin_prefetch(address); }

inline float to_float(half value) {
    __fp16 number;
    std::memcpy(&number, &value, sizeof number);
    return number;
}

// The bytes of a block.

struct Bytes32 {
    uint8x16_t low, high;
};

inline Bytes32 load_bytes(const void * address) {
    const uint8_t * bytes = static_cast<const uint8_t *>(address);
    return {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
}

inline Bytes32 operator&(Bytes32 a, int mask) {
    const uint8x16_t bits = vdupq_n_u8(static_cast<uint8_t>(mask));
    return {vandq_u8(a.low, bits), vandq_u8(a.high, bits)};
}

inline Bytes32 operator|(Bytes32 a, Bytes32 b) { return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)}; }

inline Bytes32 operator-(Bytes32 a, int value) {
    const uint8x16_t less = vdupq_n_u8(static_cast<uint8_t>(value));
    return {vsubq_u8(a.low, less), vsubq_u8(a.high, less)};
}

inline Bytes32 operator<<(Bytes32 a, int bits) {
    const int8x16_t left = vdupq_n_s8(static_cast<int8_t>(bits));
    return {vshlq_u8(a.low, left), vshlq_u8(a.high, left)};
}

inline Bytes32 operator>>(Bytes32 a, int bits) { return a << -bits; }

// The low nibbles of 16 bytes, then the high ones.
inline Bytes32 load_nibbles(const void * address) {
    const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t *>(address));
    return {vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8(bytes, 4)};
}

inline void store_64(void * address, Bytes32 first, Bytes32 second) {
    uint8_t * bytes = static_cast<uint8_t *>(address);
    vst1q_u8(bytes, first.low);
    vst1q_u8(bytes + 16, first.high);
    vst1q_u8(bytes + 32, second.low);
    vst1q_u8(bytes + 48, second.high);
}

inline void widen_unsigned(uint64_t eight, int16_t * out) {
    vst1q_s16(out, vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(eight))));
}

inline void widen_signed(const int8_t * sixteen, int16_t * out) {
    vst1q_s16(out, vmovl_s8(vld1_s8(sixteen)));
    vst1q_s16(out + 8, vmovl_s8(vld1_s8(sixteen + 8)));
}

// Scales of sums of 16 products of bytes.
using Scale = int32_t;
constexpr int SCALES_OF_32 = 2;

struct Spread {
    int16_t first, second;
};

inline Spread spread(int16_t scale) { return {scale, scale}; }

inline Spread spread(int16_t first, int16_t second) { return {first, second}; }

inline void store_64(Scale * address, Spread first, Spread second) {
    address[0] = first.first;
    address[1] = first.second;
    address[2] = second.first;
    address[3] = second.second;
}

// Eight columns.

struct Columns {
    float32x4_t low, high;
};

struct ColumnInts {
    int32x4_t low, high;
};

inline Columns zero_columns() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }

inline ColumnInts zero_column_ints() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }

inline Columns load_columns(const void * address) {
    const float * eight = static_cast<const float *>(address);
    return {vld1q_f32(eight), vld1q_f32(eight + 4)};
}

inline Columns operator*(Columns a, float b) { return {vmulq_n_f32(a.low, b), vmulq_n_f32(a.high, b)}; }

inline Columns operator-(Columns a, Columns b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }

inline Columns add_scaled(Columns sum, ColumnInts values, Columns scales) {
    return {vfmaq_f32(sum.low, scales.low, vcvtq_f32_s32(values.low)),
            vfmaq_f32(sum.high, scales.high, vcvtq_f32_s32(values.high))};
}

// sum + two int16 of each column times the same two numbers
inline ColumnInts add_pairs(ColumnInts sum, const void * pairs, const int16_t * two) {
    const int16x8x2_t each = vld2q_s16(static_cast<const int16_t *>(pairs));
    auto add = [&](int32x4_t to, int16x4_t first, int16x4_t second) {
        return vmlal_n_s16(vmlal_n_s16(to, first, two[0]), second, two[1]);
    };
    return {add(sum.low, vget_low_s16(each.val[0]), vget_low_s16(each.val[1])),
            add(sum.high, vget_high_s16(each.val[0]), vget_high_s16(each.val[1]))};
}

inline void store(float * eight, Columns columns) {
    vst1q_f32(eight, columns.low);
    vst1q_f32(eight + 4, columns.high);
}

inline void store(int32_t * eight, ColumnInts columns) {
    vst1q_s32(eight, columns.low);
    vst1q_s32(eight + 4, columns.high);
}

// Sums that are under way.

using Ints = int32x4_t;
using Floats = float32x4_t;

inline Ints zero_ints() { return vdupq_n_s32(0); }
inline Ints in_first_lane(int32_t value) { return vsetq_lane_s32(value, zero_ints(), 0); }

inline Floats load_floats(const void * address) { return vld1q_f32(static_cast<const float *>(address)); }
inline Floats zero_floats() { return vdupq_n_f32(0); }
inline Floats broadcast(float value) { return vdupq_n_f32(value); }
inline Floats to_floats(Ints values) { return vcvtq_f32_s32(values); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return vfmaq_f32(sum, a, b); }
inline Floats load_f16(const void * address) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t *>(address))));
}
inline Floats load_bf16(const void * address) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(static_cast<const uint16_t *>(address)), 16));
}
#if FEW_COLUMNS_BF16
using Halves = bfloat16x8_t;
inline Halves load_halves(const void * address) {
    return vreinterpretq_bf16_u16(vld1q_u16(static_cast<const uint16_t *>(address)));
}
inline Floats add_products(Floats sum, Halves a, Halves b) { return vbfdotq_f32(sum, a, b); }
#endif

// Four sums of four products of signed bytes, added to `sum`.
inline Ints add_dots(Ints sum, int8x16_t a, int8x16_t b) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, a, b);
#else
    const Ints low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    const Ints high = vpaddlq_s16(vmull_high_s8(a, b));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

// Lane i is the sum of the lanes of vectors[i], for up to 8 vectors.
template <int N> inline Columns sums_of_lanes(const Floats * vectors) {
    auto at = [&](int i) { return i < N ? vectors[i] : zero_floats(); };
    auto four = [&](int i) { return vpaddq_f32(vpaddq_f32(at(i), at(i + 1)), vpaddq_f32(at(i + 2), at(i + 3))); };
    return {four(0), four(4)};
}

// Products of 32 signed weights.

constexpr int SIGNED_ROWS = 1;

template <int N> inline Columns sums_of_row(const Floats * vectors, int) { return sums_of_lanes<N>(vectors); }

class SignedBytes {
public:
    explicit SignedBytes(const Bytes32 (&rows)[SIGNED_ROWS])
        : low(vreinterpretq_s8_u8(rows[0].low)), high(vreinterpretq_s8_u8(rows[0].high)) {}

    Ints dots(const char * values) const {
        const int8_t * bytes = reinterpret_cast<const int8_t *>(values);
        return add_dots(add_dots(zero_ints(), low, vld1q_s8(bytes)), high, vld1q_s8(bytes + 16));
    }

private:
    int8x16_t low, high;
};

class RowScales {
public:
    RowScales(const half (&rows)[SIGNED_ROWS], const void * columns) {
        store(each, load_columns(columns) * to_float(rows[0]));
    }

    Floats of(int column) const { return vld1q_dup_f32(each + column); }

private:
    float each[GROUP];
};

// Products of weights of at most 6 bits.

constexpr int STEP = 32;

class ScaledBytes {
public:
    ScaledBytes(const uint8_t * values, const Scale * scales)
        : low(vreinterpretq_s8_u8(vld1q_u8(values))), high(vreinterpretq_s8_u8(vld1q_u8(values + 16))),
          scales(vld1_s32(scales)) {}

    Ints add_dots_to(Ints sum, const char * column) const {
        const int8_t * bytes = reinterpret_cast<const int8_t *>(column);
        sum = vmlaq_lane_s32(sum, add_dots(zero_ints(), low, vld1q_s8(bytes)), scales, 0);
        return vmlaq_lane_s32(sum, add_dots(zero_ints(), high, vld1q_s8(bytes + 16)), scales, 1);
    }

private:
    int8x16_t low, high;
    int32x2_t scales;
};

}  // namespace few_columns
