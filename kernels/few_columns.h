// Products of a weight matrix with 2 to 16 columns. Each weight is read from memory once and used for all columns.
//
// A product is computed in two steps. `pack_*` brings the quantized columns into a panel, in the order in which the
// second step reads them; `multiply` computes rows of the result. Both work on parts that threads may share out.
// Nothing here knows ggml: dispatch.cpp connects the two.
#pragma once

#include <cstddef>
#include <cstdint>

namespace few_columns {

constexpr int MIN_COLUMNS = 2;
constexpr int MAX_COLUMNS = 16;
// The most columns that share one pass over a row. More are groups, and the next pass finds the row in the cache.
constexpr int GROUP = 8;

// How weights are stored. In the x8 formats eight rows are interleaved, eight bytes of each in turn.
enum class Weights { Q8_0, Q4_0, Q4_0x8, Q4_K, Q4_Kx8, Q5_K, Q6_K, F16, BF16 };

// How a panel stores columns: bytes with a scale for 32 or for 256 of them, or floats.
enum class Panel { BYTES_32, BYTES_32_SUMS, BYTES_256, BYTES_256_FINE, FLOATS };

struct Format {
    Panel panel;
    int block_size;          // weights in a block, and values in a block of a panel
    size_t block_bytes;      // bytes that a block of one row takes
    int rows;                // rows that are computed together: a part begins and ends at a multiple
};

// The groups of `columns`, as even as they can be; each has at least two.
struct Groups {
    explicit constexpr Groups(Panel panel, int columns)
        : count((columns + most(panel) - 1) / most(panel)), columns(columns) {}
    // Twice six sums, for two rows, and what they are computed from fit 16 registers.
    static constexpr int most(Panel panel) { return panel == Panel::FLOATS ? 6 : GROUP; }
    constexpr int start(int group) const { return columns * group / count; }
    constexpr int width(int group) const { return start(group + 1) - start(group); }

    int count;
    int columns;
};

const Format & format(Weights weights);

// Whether this build has a kernel for `weights` with rows of `k` values.
bool supported(Weights weights, int64_t k);

// Bytes of a panel; it must be aligned to 32 bytes.
size_t panel_bytes(Panel panel, int64_t k, int columns);

// Put `count` blocks of one column, from block `first` on, into the panel. `blocks` are, one after the other, ggml's
// Q8_0 blocks (BYTES_32, BYTES_32_SUMS), Q8_K blocks (BYTES_256, BYTES_256_FINE) or floats (FLOATS).
void pack(Panel panel, int64_t k, int columns, int column, int64_t first, int64_t count, const void * blocks,
          char * out);

// Compute rows [first, last) of the product: `result[column * stride + row]`. A row of `weights` has `row_bytes`.
void multiply(Weights weights, int64_t k, int columns, const char * data, size_t row_bytes, int64_t first,
              int64_t last, const char * panel, float * result, int64_t stride);

}  // namespace few_columns
