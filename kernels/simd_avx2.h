// AVX2 with FMA and F16C, and the 256-bit VNNI of later CPUs: vectors of 32 bytes.
#pragma once

#include "simd_x86.h"

namespace few_columns {

#define FEW_COLUMNS_BF16 0  // products of BF16

constexpr int VECTOR = 32;
constexpr int FLOAT_LANES = 8;
constexpr int HALVES_AT_ONCE = 0;
constexpr int MOST_FLOAT_COLUMNS = 6;  // twice six sums, for two rows, and what they are computed from fit 16 registers

using Ints = __m256i;
using Floats = __m256;

inline Ints load_ints(const void * address) { return load_256(address); }
inline Ints broadcast_64(const void * address) { return _mm256_set1_epi64x(read_64(address)); }
inline Ints zero_ints() { return _mm256_setzero_si256(); }
inline Ints in_first_lane(int32_t value) { return _mm256_zextsi128_si256(_mm_cvtsi32_si128(value)); }
inline Ints bits_and(Ints a, int mask) { return _mm256_and_si256(a, each_byte(mask)); }
inline Ints bits_xor(Ints a, int mask) { return _mm256_xor_si256(a, each_byte(mask)); }
inline Ints shift_right_4(Ints a) { return _mm256_srli_epi16(a, 4); }
inline Ints add_16(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
inline Ints multiply_bytes(Ints u, Ints s) { return _mm256_maddubs_epi16(u, s); }
inline Ints add_products(Ints sum, Ints a, Ints b) { return add_products_256(sum, a, b); }
inline Ints ones_16() { return _mm256_set1_epi16(1); }
#if FEW_COLUMNS_VNNI
inline Ints add_dots(Ints sum, Ints u, Ints s) { return add_dots_256(sum, u, s); }
#endif

inline Floats load_floats(const void * address) { return _mm256_loadu_ps(static_cast<const float *>(address)); }
inline Floats zero_floats() { return _mm256_setzero_ps(); }
inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
inline Floats to_floats(Ints values) { return _mm256_cvtepi32_ps(values); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Floats multiply_subtract(Floats a, Floats b, Floats sum) { return _mm256_fnmadd_ps(a, b, sum); }
inline Floats load_f16(const void * address) { return _mm256_cvtph_ps(load_128(address)); }
inline Floats load_bf16(const void * address) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(address)), 16));
}

inline void store_64(void * address, Bytes32 first, Bytes32 second) {
    store_256(address, first.v);
    store_256(static_cast<char *>(address) + 32, second.v);
}

inline void store_64(Scale * address, Spread first, Spread second) {
    store_256(address, first.v);
    store_256(address + SCALES_OF_32, second.v);
}

template <int N> inline Columns sums_of_lanes(const Floats * vectors) {
    return sums_of_256<N>([&](int i) { return vectors[i]; });
}

// Products of 32 signed weights.

constexpr int SIGNED_ROWS = 1;

template <int N> inline Columns sums_of_row(const Floats * vectors, int) { return sums_of_lanes<N>(vectors); }

class SignedBytes {
public:
    explicit SignedBytes(const Bytes32 (&rows)[SIGNED_ROWS]) : x(rows[0].v) {
#if FEW_COLUMNS_VNNI
        start = _mm256_sub_epi32(zero_ints(), add_dots(zero_ints(), each_byte(COLUMN_OFFSET), x));
#else
        start = _mm256_abs_epi8(x);
#endif
    }

    Ints dots(const char * values) const {
#if FEW_COLUMNS_VNNI
        return add_dots(start, load_256(values), x);
#else
        // |x| * (y with the sign of x) is what maddubs can multiply: two products fit an int16.
        return _mm256_madd_epi16(_mm256_maddubs_epi16(start, _mm256_sign_epi8(load_256(values), x)), ones_16());
#endif
    }

private:
    Ints x;
    Ints start;  // of the sums; without VNNI the magnitudes
};

class RowScales {
public:
    RowScales(const half (&rows)[SIGNED_ROWS], const void * columns) {
        store(each, load_columns(columns) * to_float(rows[0]));
    }

    // Broadcasting from memory costs no vector instruction.
    Floats of(int column) const { return _mm256_broadcast_ss(each + column); }

private:
    alignas(32) float each[GROUP];
};

constexpr int STEP = 32;

// Eight interleaved rows. A vector has 8 bytes of four of them; two int32 lanes of a sum belong to one row.

constexpr int VECTORS_OF_EIGHT = 2;

inline Floats row_lanes(__m256 rows) { return in_order_of_hadd(rows); }
inline Floats once_for_each_row(Floats rows) { return rows; }
inline Ints join(const Ints (&halves)[VECTORS_OF_EIGHT]) { return _mm256_hadd_epi32(halves[0], halves[1]); }
inline __m256 rows_of_lanes(Floats sums) { return in_order_of_hadd(sums); }
// What spreads byte i of eight to the int16 lanes of row i, for the vector of four rows.
inline Ints spread_rows(uint64_t eight, int vector, const int8_t * order) {
    return _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(eight >> (32 * vector))), load_256(order));
}

}  // namespace few_columns
