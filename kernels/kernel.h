// What each file of kernels defines: rows of a product for one group of columns.
#pragma once

#include "few_columns.h"

namespace few_columns {

// Rows of weights, a group of columns of a panel, and the result for them.
struct Part {
    int64_t blocks;  // in a row
    const char * data;
    size_t row_bytes;
    int64_t rows;
    const char * panel;
    float * result;
    int64_t stride;
};

using Kernel = void (*)(const Part &);

// The kernel for a number of columns. A group has at least two.
struct Kernels {
    Kernel of_width[GROUP + 1];
};

template <template <int> class K> constexpr Kernels kernels_of() {
    return {{nullptr, nullptr, K<2>::run, K<3>::run, K<4>::run, K<5>::run, K<6>::run, K<7>::run, K<8>::run}};
}

extern const Kernels Q8_0_KERNELS, Q4_0_KERNELS, Q4_0X8_KERNELS, Q4_K_KERNELS, Q4_KX8_KERNELS, Q5_K_KERNELS,
    Q6_K_KERNELS, F16_KERNELS, BF16_KERNELS;

}  // namespace few_columns
