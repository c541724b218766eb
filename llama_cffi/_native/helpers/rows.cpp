// What else is asked of a row of logits: log-probabilities, masks, and the records of llama.cpp's samplers.

#include "helpers.hpp"
#include "kernels.hpp"
#include "ranking.hpp"

#include <algorithm>
#include <bitset>
#include <cmath>
#include <limits>
#include <new>

using lch::Ranking;
using lch::Row;

int32_t lch_top_logprobs(const float * data, int32_t n, int32_t k, int32_t * ids, float * logprobs) {
    static thread_local Ranking ranking;
    try {
        Row row;
        if (const int error = ranking.begin_sums(data, n, row)) {
            return error;
        }
        ranking.top_k(row, k);
        const double log_total = std::log(lch::kernels().sum_exp(row));
        const int found = static_cast<int>(ranking.keys.size());
        for (int i = 0; i < found; i++) {
            ids[i] = ranking.token(static_cast<size_t>(i));
            logprobs[i] = static_cast<float>(static_cast<double>(ranking.value(static_cast<size_t>(i))) - row.top - log_total);
        }
        return found;
    } catch (const std::bad_alloc &) {
        return LCH_SELECT_MEMORY;
    }
}

int32_t lch_logprob(const float * data, int32_t n, int32_t token, double * out) {
    static thread_local Ranking ranking;
    try {
        Row row;
        if (const int error = ranking.begin_sums(data, n, row)) {
            return error;
        }
        *out = static_cast<double>(row.data[token]) - row.top - std::log(lch::kernels().sum_exp(row));
        return 0;
    } catch (const std::bad_alloc &) {
        return LCH_SELECT_MEMORY;
    }
}

int32_t lch_mask(float * row, int32_t n, const uint32_t * allowed) {
    constexpr float forbidden = -std::numeric_limits<float>::infinity();
    int32_t left = 0;
    for (int32_t start = 0; start < n; start += 32) {
        const int32_t count = std::min(32, n - start);
        uint32_t word = allowed[start / 32];
        if (count < 32) {
            word &= (1u << count) - 1;
        }
        // Nearly every word of a mask is empty or full.
        if (word == 0) {
            std::fill_n(row + start, count, forbidden);
            continue;
        }
        left += static_cast<int32_t>(std::bitset<32>(word).count());
        for (int32_t i = 0; i < count; i++) {
            row[start + i] = (word >> i) & 1 ? row[start + i] : forbidden;
        }
    }
    return left;
}

void lch_candidates(const float * data, int32_t n, void * records) {
    lch::kernels().candidates(data, n, static_cast<float *>(records));
}

int lch_sound(const void * records, int32_t n) {
    return lch::kernels().sound_logits(static_cast<const float *>(records), n);
}

const char * lch_select_isa(void) { return lch::kernels().name; }

int lch_select_use(const char * isa) { return lch::use_kernels(isa); }
