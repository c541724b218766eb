// Token selection over a row of raw logits: the distribution of llama.cpp's chain
// top-k -> top-p -> min-p -> temperature -> dist, without copying or sorting the vocabulary.
//
// Without top-k nothing is ever sorted. What survives is "all logits that rank before some limit", so that a
// token is drawn by rejection: a block in proportion to its maximum's weight, a logit of it at random, kept
// with probability weight / maximum's weight. At most 32 draws are expected, since the maximum itself is always
// kept. Whether a drawn token is inside top-p's nucleus needs one sum over the row: the mass ranking before it.

#include "helpers.hpp"
#include "kernels.hpp"
#include "random.hpp"
#include "ranking.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <new>
#include <vector>

using lch::Draws;
using lch::kDepth;
using lch::kGroup;
using lch::kLanes;
using lch::Random;
using lch::Ranking;
using lch::Row;

struct lch_selector {
    float temperature;
    int32_t top_k;
    float top_p;
    float min_p;
    uint64_t seed;
    Random random;
    Ranking ranking;
    std::vector<float> weights;
    std::vector<double> group_ends;

    int32_t select(const float * data, int n) {
        Row row;
        const bool greedy = temperature <= 0 || top_k == 1 || top_p <= 0;
        if (const int error = greedy ? ranking.begin(data, n, row) : ranking.begin_sums(data, n, row)) {
            return error;
        }
        if (greedy) {
            return ranking.first_maximum(row);
        }
        Draws draws{random.next()};
        return top_k > 0 && top_k < n ? draw_sorted(row, draws) : draw_by_rejection(row, draws);
    }

private:
    // The smallest logit that min-p keeps; never -inf.
    float min_p_bound(const Row & row) const {
        return min_p > 0 ? std::max(row.top + std::log(min_p), -FLT_MAX) : -FLT_MAX;
    }

    // With top-k the candidates are few: the chain as llama.cpp computes it, in its order and precision.
    int32_t draw_sorted(const Row & row, Draws & draws) {
        ranking.top_k(row, top_k);
        size_t n = ranking.keys.size();
        weights.resize(std::max(n, weights.size()));
        if (top_p < 1) {
            float total = 0, before = 0;
            for (size_t i = 0; i < n; i++) {
                weights[i] = std::exp(ranking.value(i) - row.top);
                total += weights[i];
            }
            for (size_t i = 0; i < n; i++) {
                before += weights[i] / total;
                if (before >= top_p) {
                    n = i + 1;
                }
            }
        }
        const float bound = min_p_bound(row);
        while (n > 1 && ranking.value(n - 1) < bound) {
            n--;
        }
        double total = 0;
        for (size_t i = 0; i < n; i++) {
            weights[i] = std::exp(ranking.value(i) / temperature - row.top / temperature);
            total += weights[i];
        }
        const double target = total * draws.uniform();
        double run = 0;
        size_t i = 0;
        while (i + 1 < n && (run += weights[i]) <= target) {
            i++;
        }
        return ranking.token(i);
    }

    int32_t draw_by_rejection(const Row & row, Draws & draws) {
        float bound = min_p_bound(row);
        int before = row.n;  // logits equal to the bound are in when their index is smaller
        weigh(row, bound);
        for (;;) {
            const int i = draw(row, draws);
            const float x = row.data[i];
            if (x < bound || (x == bound && i >= before)) {
                continue;
            }
            if (top_p >= 1 || in_nucleus(row, x, i)) {
                return i;
            }
            bound = x;
            before = i;
            weigh(row, bound);
        }
    }

    // Whether the mass that ranks before a logit is less than top_p of the whole.
    bool in_nucleus(const Row & row, float x, int index) const {
        const lch::Kernels & k = lch::kernels();
        const float * maxima = ranking.maxima.data();
        double above;
        if (k.count_at_least(maxima, ranking.n_blocks(), x) <= ranking.n_blocks() / 64) {
            // The whole is at least what ranks before and the logit's own mass: often that settles it.
            above = k.sum_above(row, maxima, x, index);
            if (above < top_p * (above + std::exp(static_cast<double>(x) - row.top))) {
                return true;
            }
        }
        double total = k.rough_sum_exp_above(row, x, index, &above);
        if (above * (1 + 2 * lch::kRough) < top_p * total * (1 - 2 * lch::kRough)) {
            return true;
        }
        if (above * (1 - 2 * lch::kRough) > top_p * total * (1 + 2 * lch::kRough)) {
            return false;
        }
        total = k.sum_exp_above(row, x, index, &above);
        return above < top_p * total;
    }

    void weigh(const Row & row, float bound) {
        const int n_blocks = ranking.n_blocks();
        weights.resize(std::max<size_t>(n_blocks, weights.size()));
        group_ends.resize(n_blocks / kLanes);
        lch::kernels().block_weights(row, ranking.maxima.data(), n_blocks, temperature, bound, weights.data());
        double end = 0;
        for (int group = 0; group < n_blocks / kLanes; group++) {
            float sum = 0;
            for (int lane = 0; lane < kLanes; lane++) {
                sum += weights[group * kLanes + lane];
            }
            group_ends[group] = end += sum;
        }
    }

    // A logit in proportion to exp(x / temperature), among the blocks that have a weight.
    int draw(const Row & row, Draws & draws) const {
        for (;;) {
            const double target = draws.uniform() * group_ends.back();
            const auto end = std::upper_bound(group_ends.begin(), group_ends.end(), target);
            const size_t group = static_cast<size_t>(end - group_ends.begin());
            if (group == group_ends.size()) {
                continue;
            }
            const float * lanes = &weights[group * kLanes];
            double rest = target - (group ? group_ends[group - 1] : 0);
            int lane = 0;
            while (lane < kLanes - 1 && rest >= lanes[lane]) {
                rest -= lanes[lane++];
            }
            if (lanes[lane] <= 0) {
                continue;
            }
            const uint64_t bits = draws.bits();
            const int depth = static_cast<int>(bits % kDepth);
            const int i = static_cast<int>(group) * kGroup + depth * kLanes + lane;
            if (i >= row.n) {
                continue;
            }
            const float maximum = ranking.maxima[group * kLanes + static_cast<size_t>(lane)];
            const double keep = static_cast<double>(bits >> 11) * 0x1.0p-53;
            if (keep < std::exp((row.data[i] - maximum) / temperature)) {
                return i;
            }
        }
    }
};

// Colder than this, exponents overflow, and logits that differ at all have no chance anyway.
static float usable(double temperature) {
    return temperature > 0 ? std::max(static_cast<float>(temperature), 1e-6f) : 0.0f;
}

lch_selector * lch_selector_new(double temperature, int32_t top_k, double top_p, double min_p, uint64_t seed) {
    return new (std::nothrow) lch_selector{
        usable(temperature), top_k, static_cast<float>(top_p), static_cast<float>(min_p),
        seed, Random(seed), {}, {}, {},
    };
}

lch_selector * lch_selector_clone(const lch_selector * self) {
    return new (std::nothrow) lch_selector{
        self->temperature, self->top_k, self->top_p, self->min_p, self->seed, self->random, {}, {}, {},
    };
}

void lch_selector_free(lch_selector * self) { delete self; }

void lch_selector_reset(lch_selector * self) { self->random = Random(self->seed); }

int32_t lch_select(lch_selector * self, const float * row, int32_t n) {
    try {
        return self->select(row, n);
    } catch (const std::bad_alloc &) {
        return LCH_SELECT_MEMORY;
    }
}
