// The random numbers of token selection: xoshiro256** for one number per token, splitmix64 for the draws of a token.
#pragma once

#include <cstdint>

namespace lch {

inline uint64_t splitmix64(uint64_t & state) {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

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

}  // namespace lch
