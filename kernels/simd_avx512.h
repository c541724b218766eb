// AVX-512 with VNNI, and with products of BF16 where the CPU has them: vectors of 64 bytes.
#pragma once

#include "simd_x86.h"

namespace few_columns {

constexpr int VECTOR = 64;
constexpr int FLOAT_LANES = 16;
constexpr int MOST_FLOAT_COLUMNS = GROUP;
#ifdef __AVX512BF16__
#define FEW_COLUMNS_BF16 1
constexpr int HALVES_AT_ONCE = 32;
#else
#define FEW_COLUMNS_BF16 0
constexpr int HALVES_AT_ONCE = 0;
#endif

using Ints = __m512i;
using Floats = __m512;

inline Ints load_ints(const void * address) { return _mm512_loadu_si512(address); }
inline Ints broadcast_64(const void * address) { return _mm512_set1_epi64(read_64(address)); }
inline Ints zero_ints() { return _mm512_setzero_si512(); }
inline Ints in_first_lane(int32_t value) { return _mm512_zextsi128_si512(_mm_cvtsi32_si128(value)); }
inline Ints each_of_64(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
inline Ints bits_and(Ints a, int mask) { return _mm512_and_si512(a, each_of_64(mask)); }
inline Ints bits_xor(Ints a, int mask) { return _mm512_xor_si512(a, each_of_64(mask)); }
inline Ints shift_right_4(Ints a) { return _mm512_srli_epi16(a, 4); }
inline Ints add_16(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
inline Ints multiply_bytes(Ints u, Ints s) { return _mm512_maddubs_epi16(u, s); }
inline Ints add_products(Ints sum, Ints a, Ints b) { return _mm512_dpwssd_epi32(sum, a, b); }
inline Ints add_dots(Ints sum, Ints u, Ints s) { return _mm512_dpbusd_epi32(sum, u, s); }
inline Ints join(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }

inline Floats load_floats(const void * address) { return _mm512_loadu_ps(address); }
inline Floats zero_floats() { return _mm512_setzero_ps(); }
inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
inline Floats to_floats(Ints values) { return _mm512_cvtepi32_ps(values); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Floats multiply_subtract(Floats a, Floats b, Floats sum) { return _mm512_fnmadd_ps(a, b, sum); }
inline Floats load_f16(const void * address) { return _mm512_cvtph_ps(load_256(address)); }
inline Floats load_bf16(const void * address) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(address)), 16));
}
#if FEW_COLUMNS_BF16
using Halves = __m512bh;
inline Halves load_halves(const void * address) {
    const Ints bits = load_ints(address);
    Halves halves;
    std::memcpy(&halves, &bits, sizeof halves);  // compilers differ in how they convert one to the other
    return halves;
}
inline Floats add_products(Floats sum, Halves a, Halves b) { return _mm512_dpbf16_ps(sum, a, b); }
#endif

inline void store_64(void * address, Bytes32 first, Bytes32 second) {
    _mm512_storeu_si512(address, join(first.v, second.v));
}

inline void store_64(Scale * address, Spread first, Spread second) {
    _mm512_storeu_si512(address, join(first.v, second.v));
}

template <int N> inline Columns sums_of_lanes(const Floats * vectors) {
    return sums_of_256<N>([&](int i) {
        return _mm256_add_ps(_mm512_castps512_ps256(vectors[i]), _mm512_extractf32x8_ps(vectors[i], 1));
    });
}

// Products of 32 signed weights: half of a vector belongs to one row.

constexpr int SIGNED_ROWS = 2;

template <int N> inline Columns sums_of_row(const Floats * vectors, int row) {
    return sums_of_256<N>([&](int i) {
        return row == 0 ? _mm512_castps512_ps256(vectors[i]) : _mm512_extractf32x8_ps(vectors[i], 1);
    });
}

class SignedBytes {
public:
    explicit SignedBytes(const Bytes32 (&rows)[SIGNED_ROWS])
        : x(join(rows[0].v, rows[1].v)),
          start(_mm512_sub_epi32(zero_ints(), add_dots(zero_ints(), each_of_64(COLUMN_OFFSET), x))) {}

    Ints dots(const char * values) const { return add_dots(start, _mm512_broadcast_i64x4(load_256(values)), x); }

private:
    Ints x;
    Ints start;  // of the sums
};

class RowScales {
public:
    RowScales(const half (&rows)[SIGNED_ROWS], const void * columns)
        : rows(_mm512_insertf32x8(broadcast(to_float(rows[0])), _mm256_set1_ps(to_float(rows[1])), 1)),
          columns(static_cast<const float *>(columns)) {}

    Floats of(int column) const { return multiply(rows, broadcast(columns[column])); }

private:
    Floats rows;
    const float * columns;
};

constexpr int STEP = 64;

// Eight interleaved rows: a vector has 8 bytes of each; two lanes of a sum belong to one row.

constexpr int VECTORS_OF_EIGHT = 1;

inline Floats row_lanes(__m256 rows) {
    const Ints twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(rows));
}
inline Floats once_for_each_row(Floats rows) { return _mm512_maskz_mov_ps(0x5555, rows); }
inline Ints join(const Ints (&vectors)[VECTORS_OF_EIGHT]) { return vectors[0]; }
inline __m256 rows_of_lanes(Floats sums) {
    return in_order_of_hadd(_mm256_hadd_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1)));
}
// What spreads byte i of eight to the int16 lanes of row i.
inline Ints spread_rows(uint64_t eight, int, const int8_t * order) {
    return _mm512_shuffle_epi8(_mm512_set1_epi64(static_cast<int64_t>(eight)), load_ints(order));
}

}  // namespace few_columns
