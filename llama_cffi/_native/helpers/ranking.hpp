// The order of the logits of one row: its maxima, and the largest of them, without sorting the rest.
#pragma once

#include "helpers.hpp"
#include "kernels.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

namespace lch {

// Floats as integers of the same order.
inline uint32_t ordered(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float unordered(uint32_t key) {
    const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Rank of a logit: larger values first, then smaller indices. -0.0 and 0.0 are equal.
inline uint64_t rank_key(float x, int index) {
    return static_cast<uint64_t>(ordered(x + 0.0f)) << 32 | ~static_cast<uint32_t>(index);
}

// What is found out of one row at a time; its memory is used again for the next.
struct Ranking {
    std::vector<float> maxima, moved;
    std::vector<uint64_t> keys;

    // Block maxima and the row's maximum; an error code for rows that nothing can be selected from.
    int begin(const float * data, int n, Row & row) {
        maxima.resize(static_cast<size_t>((n + kGroup - 1) / kGroup) * kLanes);
        row = {data, n, 0};
        if (!kernels().block_maxima(data, n, maxima.data(), &row.top)) {
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
        if (!error && std::abs(row.top) > kFar) {
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
            const int count = kernels().count_at_least(values, n, unordered(middle));
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

}  // namespace lch
