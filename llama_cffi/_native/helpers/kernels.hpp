// The loops over a whole row of logits, compiled once per instruction set and chosen at run time.
#pragma once

#include <cstdint>

namespace lch {

// A row is cut into groups of 512 logits. A block is one lane of a group: 32 logits, 16 apart, so that the
// maxima of 16 blocks are made without moving anything between lanes. The last group may be shorter.
constexpr int kLanes = 16;
constexpr int kDepth = 32;
constexpr int kGroup = kLanes * kDepth;

constexpr double kRough = 0.002;

// The logits and the largest of them; the sums want it between -kFar and kFar.
constexpr float kFar = 1000;

struct Row {
    const float * data;
    int n;
    float top;
};

struct Kernels {
    const char * name;

    // Maximum of each block (16 per group; -inf for blocks past the end) and of the row; false if there is a NaN.
    bool (*block_maxima)(const float * data, int n, float * maxima, float * top);

    // How many values are at least `bound`.
    int (*count_at_least)(const float * values, int n, float bound);

    // Sum of exp(x - top).
    double (*sum_exp)(const Row & row);

    // The same, and in *above the part of the logits that rank before (value, index): larger, or equal and earlier.
    // The rough one takes two thirds of the time, with sums that are wrong by up to kRough of themselves.
    double (*rough_sum_exp_above)(const Row & row, float value, int index, double * above);
    double (*sum_exp_above)(const Row & row, float value, int index, double * above);

    // Only that part, from the groups whose maxima allow a logit that ranks before.
    double (*sum_above)(const Row & row, const float * maxima, float value, int index);

    // exp((maximum - top) / temperature) for blocks whose maximum is at least `bound`, else 0.
    void (*block_weights)(const Row & row, const float * maxima, int n_blocks, float temperature, float bound,
                          float * weights);

    // Fills n records (id, logit, p: llama_token_data) with the tokens 0 to n - 1, their logits, and no probability.
    void (*candidates)(const float * data, int n, float * records);

    // Whether no logit of n records is NaN or +inf.
    bool (*sound_logits)(const float * records, int n);
};

const Kernels & kernels();

// Replaces the choice, for tests; false when this CPU cannot run the named one. nullptr names the best.
bool use_kernels(const char * name);

}  // namespace lch
