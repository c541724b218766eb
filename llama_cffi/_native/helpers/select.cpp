// Token selection over a row of raw logits: the distribution of llama.cpp's chain
// top-k -> top-p -> min-p -> temperature -> dist, without copying or sorting the vocabulary.
//
// Without top-k nothing is ever sorted. What survives is "all logits that rank before some limit", so that a
// token is drawn by rejection: a block in proportion to its maximum's weight, a logit of it at random, kept
// with probability weight / maximum's weight. At most 32 draws are expected, since the maximum itself is always
// kept. Whether a drawn token is inside top-p's nucleus needs one sum over the row: the mass ranking before it.

#include "helpers.hpp"
#include "kernels.hpp"

#include <algorithm>
#include <bitset>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace {

using lch::kDepth;
using lch::kGroup;
using lch::kLanes;

uint64_t splitmix64(uint64_t & state) {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

// xoshiro256**
struct Random {
    uint64_t s[4];

    explicit Random(uint64_t seed) {
        for (uint64_t & word : s) {
            word = splitmix64(seed);
        }
    }

    uint64_t next() {
        const uint64_t result = rotl(s[1] * 5, 7) * 9;
        const uint64_t t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = rotl(s[3], 45);
        return result;
    }
};

// The numbers for one token: however many it takes, the next token's do not depend on it.
struct Draws {
    uint64_t state;

    uint64_t bits() { return splitmix64(state); }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
};

// Floats as integers of the same order.
uint32_t ordered(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

float unordered(uint32_t key) {
    const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Rank of a logit: larger values first, then smaller indices. -0.0 and 0.0 are equal.
uint64_t rank_key(float x, int index) {
    return static_cast<uint64_t>(ordered(x + 0.0f)) << 32 | ~static_cast<uint32_t>(index);
}

using lch::Row;

struct Scratch {
    std::vector<float> maxima, weights, moved;
    std::vector<double> group_ends;
    std::vector<uint64_t> keys;

    // Block maxima and the row's maximum; an error code for rows that nothing can be selected from.
    int begin(const float * data, int n, Row & row) {
        maxima.resize(static_cast<size_t>((n + kGroup - 1) / kGroup) * kLanes);
        row = {data, n, 0};
        if (!lch::kernels().block_maxima(data, n, maxima.data(), &row.top)) {
            return LCH_SELECT_NAN;
        }
        return row.top == -INFINITY ? LCH_SELECT_EMPTY : 0;
    }

    // The same for what needs sums. Logits far from zero are moved there, in a copy.
    int begin_sums(const float * data, int n, Row & row) {
        int error = begin(data, n, row);
        if (!error && row.top == INFINITY) {
            error = LCH_SELECT_INF;
        }
        if (!error && std::abs(row.top) > lch::kFar) {
            moved.resize(static_cast<size_t>(n));
            std::transform(data, data + n, moved.begin(), [&](float x) { return x - row.top; });
            error = begin(moved.data(), n, row);
        }
        return error;
    }

    int n_blocks() const { return static_cast<int>(maxima.size()); }

    int first_maximum(const Row & row) const {
        size_t group = 0;
        while (std::find(&maxima[group], &maxima[group] + kLanes, row.top) == &maxima[group] + kLanes) {
            group += kLanes;
        }
        const float * start = row.data + group * kDepth;
        return static_cast<int>(std::find(start, row.data + row.n, row.top) - row.data);
    }

    // The k largest logits in `keys`, in order of rank; fewer when fewer are finite.
    void top_k(const Row & row, int k) {
        const float bound = bound_for(row, k);
        keys.clear();
        for (int block = 0; block < n_blocks(); block++) {
            if (maxima[block] < bound) {
                continue;
            }
            const int first = block / kLanes * kGroup + block % kLanes;
            const int end = std::min(row.n, first + kGroup);
            for (int i = first; i < end; i += kLanes) {
                if (row.data[i] >= bound) {
                    keys.push_back(rank_key(row.data[i], i));
                }
            }
        }
        const size_t kept = std::min(keys.size(), static_cast<size_t>(k));
        if (kept < keys.size()) {
            std::nth_element(keys.begin(), keys.begin() + static_cast<ptrdiff_t>(kept), keys.end(), std::greater<>());
            keys.resize(kept);
        }
        std::sort(keys.begin(), keys.end(), std::greater<>());
    }

    float value(size_t i) const { return unordered(static_cast<uint32_t>(keys[i] >> 32)); }
    int token(size_t i) const { return static_cast<int>(~static_cast<uint32_t>(keys[i])); }

private:
    // A value that at least k logits reach, and not many more. When k block maxima reach it, k logits do.
    float bound_for(const Row & row, int k) const {
        const bool by_blocks = k <= n_blocks() / 4;
        const float * values = by_blocks ? maxima.data() : row.data;
        const int n = by_blocks ? n_blocks() : row.n;
        const int enough = k + k / 4 + 4;
        uint32_t low = ordered(-FLT_MAX), high = ordered(row.top);
        while (low < high) {
            const uint32_t middle = low + (high - low) / 2 + 1;
            const int count = lch::kernels().count_at_least(values, n, unordered(middle));
            if (count < k) {
                high = middle - 1;
            } else {
                low = middle;
                if (count <= enough) {
                    break;
                }
            }
        }
        return unordered(low);
    }
};

}  // namespace

struct lch_selector {
    float temperature;
    int32_t top_k;
    float top_p;
    float min_p;
    uint64_t seed;
    Random random;
    Scratch scratch;

    int32_t select(const float * data, int n) {
        Row row;
        const bool greedy = temperature <= 0 || top_k == 1 || top_p <= 0;
        if (const int error = greedy ? scratch.begin(data, n, row) : scratch.begin_sums(data, n, row)) {
            return error;
        }
        if (greedy) {
            return scratch.first_maximum(row);
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
        scratch.top_k(row, top_k);
        size_t n = scratch.keys.size();
        std::vector<float> & weights = scratch.weights;
        weights.resize(std::max(n, weights.size()));
        if (top_p < 1) {
            float total = 0, before = 0;
            for (size_t i = 0; i < n; i++) {
                weights[i] = std::exp(scratch.value(i) - row.top);
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
        while (n > 1 && scratch.value(n - 1) < bound) {
            n--;
        }
        double total = 0;
        for (size_t i = 0; i < n; i++) {
            weights[i] = std::exp(scratch.value(i) / temperature - row.top / temperature);
            total += weights[i];
        }
        const double target = total * draws.uniform();
        double run = 0;
        size_t i = 0;
        while (i + 1 < n && (run += weights[i]) <= target) {
            i++;
        }
        return scratch.token(i);
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
        const float * maxima = scratch.maxima.data();
        double above;
        if (k.count_at_least(maxima, scratch.n_blocks(), x) <= scratch.n_blocks() / 64) {
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
        const int n_blocks = scratch.n_blocks();
        std::vector<float> & weights = scratch.weights;
        weights.resize(std::max<size_t>(n_blocks, weights.size()));
        scratch.group_ends.resize(n_blocks / kLanes);
        lch::kernels().block_weights(row, scratch.maxima.data(), n_blocks, temperature, bound, weights.data());
        double end = 0;
        for (int group = 0; group < n_blocks / kLanes; group++) {
            float sum = 0;
            for (int lane = 0; lane < kLanes; lane++) {
                sum += weights[group * kLanes + lane];
            }
            scratch.group_ends[group] = end += sum;
        }
    }

    // A logit in proportion to exp(x / temperature), among the blocks that have a weight.
    int draw(const Row & row, Draws & draws) const {
        const std::vector<double> & ends = scratch.group_ends;
        for (;;) {
            const double target = draws.uniform() * ends.back();
            const size_t group = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), target) - ends.begin());
            if (group == ends.size()) {
                continue;
            }
            const float * weights = &scratch.weights[group * kLanes];
            double rest = target - (group ? ends[group - 1] : 0);
            int lane = 0;
            while (lane < kLanes - 1 && rest >= weights[lane]) {
                rest -= weights[lane++];
            }
            if (weights[lane] <= 0) {
                continue;
            }
            const uint64_t bits = draws.bits();
            const int depth = static_cast<int>(bits % kDepth);
            const int i = static_cast<int>(group) * kGroup + depth * kLanes + lane;
            if (i >= row.n) {
                continue;
            }
            const float maximum = scratch.maxima[group * kLanes + static_cast<size_t>(lane)];
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
        seed, Random(seed), {},
    };
}

lch_selector * lch_selector_clone(const lch_selector * self) {
    return new (std::nothrow) lch_selector{
        self->temperature, self->top_k, self->top_p, self->min_p, self->seed, self->random, {},
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

int32_t lch_top_logprobs(const float * data, int32_t n, int32_t k, int32_t * ids, float * logprobs) {
    static thread_local Scratch scratch;
    try {
        Row row;
        if (const int error = scratch.begin_sums(data, n, row)) {
            return error;
        }
        scratch.top_k(row, k);
        const double log_total = std::log(lch::kernels().sum_exp(row));
        const int found = static_cast<int>(scratch.keys.size());
        for (int i = 0; i < found; i++) {
            ids[i] = scratch.token(static_cast<size_t>(i));
            logprobs[i] = static_cast<float>(static_cast<double>(scratch.value(static_cast<size_t>(i))) - row.top - log_total);
        }
        return found;
    } catch (const std::bad_alloc &) {
        return LCH_SELECT_MEMORY;
    }
}

int32_t lch_logprob(const float * data, int32_t n, int32_t token, double * out) {
    static thread_local Scratch scratch;
    try {
        Row row;
        if (const int error = scratch.begin_sums(data, n, row)) {
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
