// The vectors of the CPU that is compiled for, under one name for all: the kernels are written with these.
//
// FEW_COLUMNS_SIMD says whether there are any. What each file defines:
//
//   Bytes32            32 bytes, of one row and block; operators work on each byte, but shifts need a mask after them
//   Ints, Floats       sums that are under way: vectors of as many lanes as the CPU has
//   Columns, ColumnInts  eight lanes, one for each column of a group
//   SignedBytes        32 signed weights of SIGNED_ROWS rows, whose products with 32 values of a column are summed
//   ScaledBytes        STEP weights of at most 6 bits with an integer scale (Scale) for each 16, likewise
//   RowScales          the scales of SIGNED_ROWS rows times those of the columns
#pragma once

#if defined(__aarch64__) && defined(__ARM_NEON)
#define FEW_COLUMNS_SIMD 1
#define FEW_COLUMNS_X86 0
#include "simd_neon.h"
#elif defined(__AVX2__) && (defined(_MSC_VER) || (defined(__FMA__) && defined(__F16C__)))
#define FEW_COLUMNS_SIMD 1
#define FEW_COLUMNS_X86 1
#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif
#include "scaled_bytes_x86.h"
#else
#define FEW_COLUMNS_SIMD 0
#define FEW_COLUMNS_X86 0

namespace few_columns {

// What the layout of a panel asks for, in builds that make none.
constexpr int VECTOR = 32, FLOAT_LANES = 8, HALVES_AT_ONCE = 0, MOST_FLOAT_COLUMNS = 8;
constexpr int COLUMN_OFFSET = 0;
constexpr bool SUMS_ARE_INT32 = false;

}  // namespace few_columns
#endif
