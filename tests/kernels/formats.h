// The formats of weights as the checks of the kernels see them: random blocks, and what their bits say in float64.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "blocks.h"
#include "few_columns.h"

using namespace few_columns;

namespace {

std::mt19937 generator(20);

int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

float random_float(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator); }

// Positive and negative normal numbers around 1/64, and now and then 0.
half random_half() {
    if (random_int(0, 40) == 0) {
        return 0;
    }
    return static_cast<half>(random_int(0, 1) << 15 | random_int(7, 11) << 10 | random_int(0, 1023));
}

double value_of(half bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == 31) {
        return fraction ? std::nan("") : sign * HUGE_VAL;
    }
    return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

template <class T> T at(const char * bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

void scale_and_min(const uint8_t * packed, int i, int & scale, int & min) {
    if (i < 4) {
        scale = packed[i] & 63;
        min = packed[i + 4] & 63;
    } else {
        scale = (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4;
        min = packed[i + 4] >> 4 | (packed[i] >> 6) << 4;
    }
}

// A weight as up to two terms: K-quants subtract a min, whose rounding is its own.
struct Weight {
    double scaled;
    double min;
};

Weight weight(Weights type, const char * row, int64_t i) {
    switch (type) {
        case Weights::Q8_0: {
            const auto block = at<BlockQ8_0>(row + i / 32 * 34);
            return {value_of(block.d) * block.qs[i % 32], 0};
        }
        case Weights::Q4_0: {
            const auto block = at<BlockQ4_0>(row + i / 32 * 18);
            const int place = static_cast<int>(i % 32);
            const int nibble = place < 16 ? block.qs[place] & 15 : block.qs[place - 16] >> 4;
            return {value_of(block.d) * (nibble - 8), 0};
        }
        case Weights::Q4_K: {
            const auto block = at<BlockQ4_K>(row + i / 256 * 144);
            const int place = static_cast<int>(i % 256);
            const uint8_t byte = block.qs[place / 64 * 32 + place % 32];
            int scale, min;
            scale_and_min(block.scales, place / 32, scale, min);
            return {value_of(block.d) * scale * (place % 64 < 32 ? byte & 15 : byte >> 4), value_of(block.dmin) * min};
        }
        case Weights::Q5_K: {
            const auto block = at<BlockQ5_K>(row + i / 256 * 176);
            const int place = static_cast<int>(i % 256);
            const uint8_t byte = block.qs[place / 64 * 32 + place % 32];
            const int fifth = block.qh[place % 32] >> (place / 32) & 1;
            int scale, min;
            scale_and_min(block.scales, place / 32, scale, min);
            const int bits = (place % 64 < 32 ? byte & 15 : byte >> 4) | fifth << 4;
            return {value_of(block.d) * scale * bits, value_of(block.dmin) * min};
        }
        case Weights::Q6_K: {
            const auto block = at<BlockQ6_K>(row + i / 256 * 210);
            const int place = static_cast<int>(i % 256), half_block = place / 128, in_half = place % 128;
            const uint8_t low = block.ql[64 * half_block + in_half % 64];
            const int top = block.qh[32 * half_block + in_half % 32] >> (in_half / 32 * 2) & 3;
            const int bits = (in_half < 64 ? low & 15 : low >> 4) | top << 4;
            return {value_of(block.d) * block.scales[place / 16] * (bits - 32), 0};
        }
        case Weights::F16:
            return {value_of(at<half>(row + 2 * i)), 0};
        case Weights::BF16: {
            const uint32_t bits = static_cast<uint32_t>(at<uint16_t>(row + 2 * i)) << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            return {value, 0};
        }
        default:
            break;
    }
    std::abort();
}

Weights plain(Weights type) {
    switch (type) {
        case Weights::Q8_0x4_BY_4:
        case Weights::Q8_0x4_BY_8:
            return Weights::Q8_0;
        case Weights::Q4_0x4_BY_4:
        case Weights::Q4_0x4_BY_8:
        case Weights::Q4_0x8_BY_8:
            return Weights::Q4_0;
        case Weights::Q4_Kx8_BY_4:
        case Weights::Q4_Kx8_BY_8:
            return Weights::Q4_K;
        default:
            return type;
    }
}

int interleaved_by(Weights type) {
    return type == Weights::Q8_0x4_BY_4 || type == Weights::Q4_0x4_BY_4 || type == Weights::Q4_Kx8_BY_4 ? 4 : 8;
}

// Random blocks: all bytes are random where every byte is allowed, and scales are numbers.
void fill_row(Weights type, char * row, int64_t k) {
    const Format & form = format(type);
    const int64_t blocks = k / form.block_size;
    for (int64_t i = 0; i < blocks * static_cast<int64_t>(form.block_bytes); i++) {
        row[i] = static_cast<char>(random_int(-128, 127));
    }
    for (int64_t b = 0; b < blocks; b++) {
        char * block = row + b * static_cast<int64_t>(form.block_bytes);
        auto set = [&](size_t offset) {
            const half value = random_half();
            std::memcpy(block + offset, &value, 2);
        };
        if (type == Weights::Q8_0 || type == Weights::Q4_0) {
            set(0);
        } else if (type == Weights::Q4_K || type == Weights::Q5_K) {
            set(0);
            set(2);
        } else if (type == Weights::Q6_K) {
            set(208);
        } else if (type == Weights::F16) {
            for (size_t i = 0; i < form.block_bytes; i += 2) {
                set(i);
            }
        } else {  // BF16
            for (size_t i = 0; i < form.block_bytes; i += 2) {
                const float value = random_float(-1, 1);
                std::memcpy(block + i, reinterpret_cast<const char *>(&value) + 2, 2);
            }
        }
    }
}

// The bytes of several rows' blocks in turn; `flip` changes bits of each.
template <class Block>
void interleave_bytes(Block block, size_t offset, int count, int rows, int by, int flip, char * out) {
    for (int i = 0; i < count; i++) {
        for (int r = 0; r < rows; r++) {
            const char byte = block(r)[offset + static_cast<size_t>(i)];
            out[i / by * by * rows + by * r + i % by] = static_cast<char>(byte ^ flip);
        }
    }
}

// Four or eight rows in the order of ggml's repacked blocks.
void interleave(Weights type, const std::vector<char> & rows, int64_t k, char * out) {
    const Format & form = format(type);
    const int count = form.rows, by = interleaved_by(type);
    const int64_t blocks = k / form.block_size;
    const size_t row_bytes = form.block_bytes * static_cast<size_t>(blocks);
    for (int64_t b = 0; b < blocks; b++, out += static_cast<size_t>(count) * form.block_bytes) {
        const size_t offset = form.block_bytes * static_cast<size_t>(b);
        auto block = [&](int r) { return rows.data() + row_bytes * static_cast<size_t>(r) + offset; };
        char * next = out;
        for (int r = 0; r < count; r++, next += 2) {
            std::memcpy(next, block(r), 2);  // d
        }
        if (plain(type) != Weights::Q4_K) {
            const int bytes = static_cast<int>(form.block_bytes) - 2;
            interleave_bytes(block, 2, bytes, count, by, plain(type) == Weights::Q4_0 ? 0x88 : 0, next);
            continue;
        }
        int scales[8][8], mins[8][8];  // of row, of part
        for (int r = 0; r < count; r++, next += 2) {
            std::memcpy(next, block(r) + 2, 2);  // dmin
            for (int i = 0; i < 8; i++) {
                scale_and_min(at<BlockQ4_K>(block(r)).scales, i, scales[r][i], mins[r][i]);
            }
        }
        for (int i = 0; i < 8; i++, next += 12) {  // as in Q4_K, with the rows in the place of the parts
            for (int r = 0; r < 4; r++) {
                next[r] = static_cast<char>(scales[r][i] | (scales[r + 4][i] >> 4) << 6);
                next[r + 4] = static_cast<char>(mins[r][i] | (mins[r + 4][i] >> 4) << 6);
                next[r + 8] = static_cast<char>((scales[r + 4][i] & 15) | (mins[r + 4][i] & 15) << 4);
            }
        }
        interleave_bytes(block, 16, 128, count, by, 0, next);
    }
}

}  // namespace
