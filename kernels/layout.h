// Where a panel keeps what: one group of columns after the other, in a group one block of k after the other, and in a
// block what all columns of the group need. Everything starts at a multiple of 32 bytes.
#pragma once

#include "few_columns.h"

namespace few_columns {

// The parts of a block, in bytes from its start. `scales` are eight floats, one for each column, at 0.
struct Layout {
    int block_size;
    size_t sums;    // sums of values
    size_t values;  // of the first column; the others follow
    size_t column;  // bytes of a column's values

    constexpr size_t block_bytes(int width) const { return values + column * static_cast<size_t>(width); }
};

constexpr Layout layout(Panel panel) {
    switch (panel) {
        case Panel::BYTES_32:
            return {32, 0, 32, 32};
        case Panel::BYTES_32_SUMS:  // for each column four int16: -8 times the sums of 8 values, see q4_0x8.cpp
            return {32, 32, 96, 32};
        case Panel::BYTES_256:  // for each pair of 32 values two int16 of each column
            return {256, 32, 160, 256};
        case Panel::BYTES_256_FINE:  // for each pair of 16 values two int16 of each column
            return {256, 32, 288, 256};
        case Panel::FLOATS:
            return {8, 0, 0, 32};
    }
    return {};
}

}  // namespace few_columns
