// Products of a weight matrix with 2 to 16 columns. Each weight is read from memory once and used for all columns.
//
// A product is computed in two steps. `pack_*` brings the quantized columns into a panel, in the order in which the
// second step reads them; `multiply` computes rows of the result. Both work on parts that threads may share out.
// Nothing here knows ggml: dispatch.cpp connects the two.
#pragma once

#include <cstddef>
#include <cstdint>

namespace few_columns {

// One column is computed, too, but it is worth it only beside others: for one of several experts.
constexpr int MIN_COLUMNS = 2;
constexpr int MAX_COLUMNS = 16;
// The most columns that share one pass over a row. More are groups, and the next pass finds the row in the cache.
constexpr int GROUP = 8;

// How weights are stored. In the x4 and x8 formats as many rows are interleaved, 4 or 8 bytes of each in turn.
enum class Weights {
    Q8_0, Q4_0, Q4_K, Q5_K, Q6_K, F16, BF16,
    Q8_0x4_BY_4, Q8_0x4_BY_8, Q4_0x4_BY_4, Q4_0x4_BY_8, Q4_0x8_BY_8, Q4_Kx8_BY_4, Q4_Kx8_BY_8,
};
constexpr int N_WEIGHTS = 14;

// How a panel stores columns: bytes with a scale for 32 or for 256 of them, floats, or BF16.
enum class Panel { BYTES_32, BYTES_32_SUMS, BYTES_256, BYTES_256_FINE, FLOATS, HALVES };

struct Format {
    Panel panel;
    int block_size;          // weights in a block, and values in a block of a panel
    size_t block_bytes;      // bytes that a block of one row takes
    int rows;                // rows that are computed together: a part begins and ends at a multiple
};

const Format & format(Weights weights);

// Whether this build has a kernel for `weights` with rows of `k` values.
bool supported(Weights weights, int64_t k);

// Bytes of a panel, which must be aligned to PANEL_ALIGNMENT.
constexpr size_t PANEL_ALIGNMENT = 64;
size_t panel_bytes(Panel panel, int64_t k, int columns);

// Put `count` blocks of one column, from block `first` on, into the panel. `blocks` are, one after the other, ggml's
// Q8_0 blocks (BYTES_32, BYTES_32_SUMS), Q8_K blocks (BYTES_256, BYTES_256_FINE), floats (FLOATS) or BF16 (HALVES).
void pack(Panel panel, int64_t k, int columns, int column, int64_t first, int64_t count, const void * blocks,
          char * out);

// Compute rows [first, last) of the product: `results[column][row]`. A row of `weights` has `row_bytes`.
void multiply(Weights weights, int64_t k, int columns, const char * data, size_t row_bytes, int64_t first,
              int64_t last, const char * panel, float * const * results);

}  // namespace few_columns
