// What AVX2 and AVX-512 share: 256 bits of a block or of eight columns.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "blocks.h"
#include "few_columns.h"

namespace few_columns {

inline __m256i load_256(const void * address) { return _mm256_loadu_si256(static_cast<const __m256i *>(address)); }

inline void store_256(void * address, __m256i vector) { _mm256_storeu_si256(static_cast<__m256i *>(address), vector); }

inline __m128i load_128(const void * address) { return _mm_loadu_si128(static_cast<const __m128i *>(address)); }

inline int32_t read_32(const void * address) {
    int32_t value;
    std::memcpy(&value, address, sizeof value);
    return value;
}

inline int64_t read_64(const void * address) {
    int64_t value;
    std::memcpy(&value, address, sizeof value);
    return value;
}

inline void prefetch(const void * address) { _mm_prefetch(static_cast<const char *>(address), _MM_HINT_T0); }

inline float to_float(half value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }

// The bytes of a block.

struct Bytes32 {
    __m256i v;
};

inline Bytes32 load_bytes(const void * address) { return {load_256(address)}; }

inline __m256i each_byte(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

inline Bytes32 operator&(Bytes32 a, int mask) { return {_mm256_and_si256(a.v, each_byte(mask))}; }

inline Bytes32 operator|(Bytes32 a, Bytes32 b) { return {_mm256_or_si256(a.v, b.v)}; }

inline Bytes32 operator-(Bytes32 a, int value) { return {_mm256_sub_epi8(a.v, each_byte(value))}; }

inline Bytes32 operator>>(Bytes32 a, int bits) { return {_mm256_srl_epi16(a.v, _mm_cvtsi32_si128(bits))}; }

inline Bytes32 operator<<(Bytes32 a, int bits) { return {_mm256_sll_epi16(a.v, _mm_cvtsi32_si128(bits))}; }

// The low nibbles of 16 bytes, then the high ones.
inline Bytes32 load_nibbles(const void * address) {
    const __m128i bytes = load_128(address);
    return Bytes32{_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes)} & 15;
}

inline void widen_unsigned(uint64_t eight, int16_t * out) {
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(eight));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(out), _mm_cvtepu8_epi16(bytes));
}

inline void widen_signed(const int8_t * sixteen, int16_t * out) {
    store_256(out, _mm256_cvtepi8_epi16(load_128(sixteen)));
}

// Scales of sums of two products of bytes: one for 32 values, or one for each 16.
using Scale = int16_t;
constexpr int SCALES_OF_32 = 16;

struct Spread {
    __m256i v;
};

inline Spread spread(int16_t scale) { return {_mm256_set1_epi16(scale)}; }

inline Spread spread(int16_t first, int16_t second) {
    return {_mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first))};
}

// Sums of four products of unsigned and signed bytes, and of two products of int16.

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define FEW_COLUMNS_VNNI 1
inline __m256i add_dots_256(__m256i sum, __m256i u, __m256i s) { return _mm256_dpbusd_epi32(sum, u, s); }
inline __m256i add_products_256(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_epi32(sum, a, b); }
#elif defined(__AVXVNNI__)
#define FEW_COLUMNS_VNNI 1
inline __m256i add_dots_256(__m256i sum, __m256i u, __m256i s) { return _mm256_dpbusd_avx_epi32(sum, u, s); }
inline __m256i add_products_256(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
#else
#define FEW_COLUMNS_VNNI 0
inline __m256i add_products_256(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
#endif

// With VNNI columns are unsigned: 128 more than they are. The weights' sum makes up for it.
constexpr int COLUMN_OFFSET = FEW_COLUMNS_VNNI ? 128 : 0;
// Interleaved Q4_0: whether its products are summed to int32 at once, or to int16.
constexpr bool SUMS_ARE_INT32 = FEW_COLUMNS_VNNI != 0;

// Eight columns.

struct Columns {
    __m256 v;
};

struct ColumnInts {
    __m256i v;
};

inline Columns zero_columns() { return {_mm256_setzero_ps()}; }

inline ColumnInts zero_column_ints() { return {_mm256_setzero_si256()}; }

inline Columns load_columns(const void * address) { return {_mm256_loadu_ps(static_cast<const float *>(address))}; }

inline Columns operator*(Columns a, float b) { return {_mm256_mul_ps(a.v, _mm256_set1_ps(b))}; }

inline Columns operator-(Columns a, Columns b) { return {_mm256_sub_ps(a.v, b.v)}; }

inline Columns add_scaled(Columns sum, ColumnInts values, Columns scales) {
    return {_mm256_fmadd_ps(scales.v, _mm256_cvtepi32_ps(values.v), sum.v)};
}

// sum + two int16 of each column times the same two numbers
inline ColumnInts add_pairs(ColumnInts sum, const void * pairs, const int16_t * two) {
    return {add_products_256(sum.v, load_256(pairs), _mm256_set1_epi32(read_32(two)))};
}

inline void store(float * eight, Columns columns) { _mm256_storeu_ps(eight, columns.v); }

inline void store(int32_t * eight, ColumnInts columns) { store_256(eight, columns.v); }

// hadd of what belongs to rows 0-3 and to rows 4-7 gives the rows in this order; it is its own inverse.
inline __m256 in_order_of_hadd(__m256 rows) {
    return _mm256_permutevar8x32_ps(rows, _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7));
}

// Lane i is the sum of the lanes of vector(i), for up to 8 vectors.
template <int N, class Vector> inline Columns sums_of_256(Vector vector) {
    const __m256 zero = _mm256_setzero_ps();
    auto at = [&](int i) { return i < N ? vector(i) : zero; };
    const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(at(0), at(1)), _mm256_hadd_ps(at(2), at(3)));
    const __m256 high = N > 4 ? _mm256_hadd_ps(_mm256_hadd_ps(at(4), at(5)), _mm256_hadd_ps(at(6), at(7))) : zero;
    return {_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31))};
}

}  // namespace few_columns
