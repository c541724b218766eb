// AVX2 and what VNNI does better, under one name. FEW_COLUMNS_AVX2 says whether the kernels can be compiled.
#pragma once

#if defined(__AVX2__) && (defined(_MSC_VER) || (defined(__FMA__) && defined(__F16C__)))
#define FEW_COLUMNS_AVX2 1

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "blocks.h"

namespace few_columns {

inline __m256i load(const void * address) { return _mm256_loadu_si256(static_cast<const __m256i *>(address)); }

inline __m256 load_floats(const void * address) { return _mm256_load_ps(static_cast<const float *>(address)); }

inline __m256i broadcast_64(const void * address) {
    int64_t value;
    std::memcpy(&value, address, sizeof value);
    return _mm256_set1_epi64x(value);
}

inline __m256i broadcast_32(const void * address) {
    int32_t value;
    std::memcpy(&value, address, sizeof value);
    return _mm256_set1_epi32(value);
}

inline float to_float(half value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }

inline __m256 to_floats(const half * eight) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(eight)));
}

// Sums of four products of unsigned and signed bytes. Two products must not exceed an int16 together.
inline __m256i dot_bytes(__m256i u, __m256i s) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, s);
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), u, s);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1));
#endif
}

// sum + the sums of two products of int16
inline __m256i add_products(__m256i sum, __m256i a, __m256i b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpwssd_epi32(sum, a, b);
#elif defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

// Lane i is the sum of the lanes of vectors[i], for up to 8 vectors.
template <int N> inline __m256 sums_of_lanes(const __m256 * vectors) {
    const __m256 zero = _mm256_setzero_ps();
    auto at = [&](int i) { return i < N ? vectors[i] : zero; };
    const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(at(0), at(1)), _mm256_hadd_ps(at(2), at(3)));
    const __m256 high = N > 4 ? _mm256_hadd_ps(_mm256_hadd_ps(at(4), at(5)), _mm256_hadd_ps(at(6), at(7))) : zero;
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

template <int N> inline void store_lanes(__m256 lanes, float * result, int64_t stride) {
    alignas(32) float values[8];
    _mm256_store_ps(values, lanes);
    for (int i = 0; i < N; i++) {
        result[i * stride] = values[i];
    }
}

}  // namespace few_columns

#else
#define FEW_COLUMNS_AVX2 0
#endif
