// How ggml stores the weights of a tensor.
#pragma once

#include "few_columns.h"
#include "ggml.h"

namespace few_columns {

// Whether there are kernels for weights that are stored as those of `tensor`, and how that is.
bool find_weights(const struct ggml_tensor * tensor, Weights & weights);

}  // namespace few_columns
