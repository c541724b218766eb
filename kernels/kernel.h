// What the files for each kind of block define: rows of a product for one group of columns.
#pragma once

#include <algorithm>

#include "few_columns.h"
#include "simd.h"

namespace few_columns {

// Rows of weights, a group of columns of a panel, and where the results are: results[column][row].
struct Part {
    int64_t blocks;  // in a row
    const char * data;
    size_t row_bytes;
    int64_t first, last;  // rows
    const char * panel;
    float * const * results;
};

using Kernel = void (*)(const Part &);

// The kernel for a number of columns.
struct Kernels {
    Kernel of_width[GROUP + 1];
};

// Empty where the CPU that is compiled for has none.
extern const Kernels Q8_0_KERNELS, Q4_0_KERNELS, Q4_K_KERNELS, Q5_K_KERNELS, Q6_K_KERNELS, F16_KERNELS, BF16_KERNELS,
    Q8_0X4_BY_4_KERNELS, Q8_0X4_BY_8_KERNELS, Q4_0X4_BY_4_KERNELS, Q4_0X4_BY_8_KERNELS, Q4_0X8_BY_8_KERNELS,
    Q4_KX8_BY_4_KERNELS, Q4_KX8_BY_8_KERNELS;

#if FEW_COLUMNS_SIMD

// Where a tile's results go.
struct Target {
    float * const * results;
    int64_t row;
    int rows;
};

template <int C> void store_row(const Target & target, int row, Columns columns) {
    alignas(32) float values[GROUP];
    store(values, columns);
    for (int c = 0; c < C && row < target.rows; c++) {
        target.results[c][target.row + row] = values[c];
    }
}

// Several rows at once are as many streams of memory, each of which ends where another began: the CPU's prefetcher does
// not follow them.
template <int ROWS> void prefetch_next_tile(const void * address, size_t row_bytes) {
    if (ROWS > 1) {
        prefetch(static_cast<const char *>(address) + ROWS * row_bytes);
    }
}

// All rows, in tiles of Tile::ROWS. The last tile may have fewer: the last row is in the place of those it lacks.
template <class Tile> void run(const Part & part) {
    for (int64_t row = part.first; row < part.last; row += Tile::ROWS) {
        const char * rows[Tile::ROWS];
        for (int r = 0; r < Tile::ROWS; r++) {
            rows[r] = part.data + static_cast<size_t>(std::min(row + r, part.last - 1)) * part.row_bytes;
        }
        const int count = static_cast<int>(std::min<int64_t>(Tile::ROWS, part.last - row));
        Tile::compute(rows, part, {part.results, row, count});
    }
}

template <template <int> class Tile> constexpr Kernels kernels_of() {
    return {{nullptr, run<Tile<1>>, run<Tile<2>>, run<Tile<3>>, run<Tile<4>>, run<Tile<5>>, run<Tile<6>>, run<Tile<7>>,
             run<Tile<8>>}};
}

#endif

}  // namespace few_columns
