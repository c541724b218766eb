// Where a panel keeps what: one group of columns after the other, in a group one block of k after the other, and in a
// block what all columns of the group need. Everything starts at a multiple of 32 bytes, and what is read as whole
// vectors at a multiple of their size.
#pragma once

#include "few_columns.h"
#include "simd.h"

namespace few_columns {

// The groups of `columns`, as even as they can be; of several, each has at least two.
struct Groups {
    explicit constexpr Groups(Panel panel, int columns)
        : count((columns + most(panel) - 1) / most(panel)), columns(columns) {}
    static constexpr int most(Panel panel) { return panel == Panel::FLOATS ? MOST_FLOAT_COLUMNS : GROUP; }
    constexpr int start(int group) const { return columns * group / count; }
    constexpr int width(int group) const { return start(group + 1) - start(group); }

    int count;
    int columns;
};

// The parts of a block, in bytes from its start. `scales` are eight floats, one for each column, at 0.
struct Layout {
    int block_size;
    size_t sums;    // sums of values
    size_t values;  // of the first column; the others follow
    size_t column;  // bytes of a column's values

    constexpr size_t block_bytes(int width) const { return values + column * static_cast<size_t>(width); }
};

constexpr size_t for_vectors(size_t offset) { return (offset + VECTOR - 1) / VECTOR * VECTOR; }

constexpr Layout layout(Panel panel) {
    switch (panel) {
        case Panel::BYTES_32:  // each value is COLUMN_OFFSET more than it is
            return {32, 0, 32, 32};
        case Panel::BYTES_32_SUMS:  // for each column 8 bytes: -8 times sums of its values, see pack_sums
            return {32, 32, 96, 32};
        case Panel::BYTES_256:  // for each pair of 32 values two int16 of each column
            return {256, 32, for_vectors(160), 256};
        case Panel::BYTES_256_FINE:  // for each pair of 16 values two int16 of each column
            return {256, 32, for_vectors(288), 256};
        case Panel::FLOATS:
            return {FLOAT_LANES, 0, 0, sizeof(float) * FLOAT_LANES};
        case Panel::HALVES:
            return {HALVES_AT_ONCE, 0, 0, sizeof(uint16_t) * HALVES_AT_ONCE};
    }
    return {};
}

}  // namespace few_columns
