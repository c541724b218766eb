// AVX-512 out of what AVX2 has, by SIMDe (Debian's libsimde-dev), so that sanitizers can watch what no CPU here runs.
// Compilers find this file before their own; -include it, since the kernels ask for the macros first.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstring>

#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1

// What SIMDe lacks: a vector as its two halves.
template <class To, class From> To bits_as(const From & from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

struct Halves512 {
    __m256i low, high;
};

inline __m512 halves_cvtepi32_ps(__m512i a) {
    const Halves512 half = bits_as<Halves512>(a);
    const __m256 both[2] = {_mm256_cvtepi32_ps(half.low), _mm256_cvtepi32_ps(half.high)};
    return bits_as<__m512>(both);
}

inline __m512i halves_cvtepu16_epi32(__m256i a) {
    return bits_as<__m512i>(Halves512{_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a)),
                                      _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1))});
}

inline __m512 halves_cvtph_ps(__m256i a) {
    const __m256 both[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
    return bits_as<__m512>(both);
}

inline __m256 halves_extractf32x8_ps(__m512 a, int which) {
    const Halves512 half = bits_as<Halves512>(a);
    return _mm256_castsi256_ps(which == 0 ? half.low : half.high);
}

inline __m512i halves_zextsi128_si512(__m128i a) {
    return bits_as<__m512i>(Halves512{_mm256_zextsi128_si256(a), _mm256_setzero_si256()});
}

#define _mm512_cvtepi32_ps halves_cvtepi32_ps
#define _mm512_cvtepu16_epi32 halves_cvtepu16_epi32
#define _mm512_cvtph_ps halves_cvtph_ps
#define _mm512_extractf32x8_ps halves_extractf32x8_ps
#define _mm512_zextsi128_si512 halves_zextsi128_si512
