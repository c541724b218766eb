// Checks the kernels alone, without ggml: each format against a product in float64 of what its blocks say.
//
// Buffers have exactly the size that is used, so that the address sanitizer sees a read past an end. Prints one line for
// each thing that is wrong and returns how many there were, at most 99.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "blocks.h"
#include "few_columns.h"

using namespace few_columns;

namespace {

int failures = 0;
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
        case Weights::Q4_0x8:
        case Weights::Q4_Kx8:
            break;
    }
    std::abort();
}

Weights plain(Weights type) {
    return type == Weights::Q4_0x8 ? Weights::Q4_0 : type == Weights::Q4_Kx8 ? Weights::Q4_K : type;
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
            for (size_t i = 0; i < 16; i += 2) {
                set(i);
            }
        } else {  // BF16
            for (size_t i = 0; i < 16; i += 2) {
                const float value = random_float(-1, 1);
                std::memcpy(block + i, reinterpret_cast<const char *>(&value) + 2, 2);
            }
        }
    }
}

// Eight rows in the order of ggml's repacked blocks.
void interleave(Weights type, const std::vector<char> & rows, int64_t k, char * out) {
    const Format & form = format(type);
    const int64_t blocks = k / form.block_size;
    const size_t row_bytes = form.block_bytes * static_cast<size_t>(blocks);
    for (int64_t b = 0; b < blocks; b++, out += 8 * form.block_bytes) {
        auto block = [&](int r) { return rows.data() + row_bytes * static_cast<size_t>(r) + form.block_bytes * static_cast<size_t>(b); };
        if (type == Weights::Q4_0x8) {
            BlockQ4_0x8 made;
            for (int r = 0; r < 8; r++) {
                const auto one = at<BlockQ4_0>(block(r));
                made.d[r] = one.d;
                for (int i = 0; i < 16; i++) {
                    made.qs[i / 8 * 64 + 8 * r + i % 8] = one.qs[i] ^ 0x88;
                }
            }
            std::memcpy(out, &made, sizeof made);
            continue;
        }
        BlockQ4_Kx8 made;
        int scales[8][8], mins[8][8];  // of row, of part
        for (int r = 0; r < 8; r++) {
            const auto one = at<BlockQ4_K>(block(r));
            made.d[r] = one.d;
            made.dmin[r] = one.dmin;
            for (int i = 0; i < 128; i++) {
                made.qs[i / 8 * 64 + 8 * r + i % 8] = one.qs[i];
            }
            for (int i = 0; i < 8; i++) {
                scale_and_min(one.scales, i, scales[r][i], mins[r][i]);
            }
        }
        for (int i = 0; i < 8; i++) {  // as in Q4_K, with the rows in the place of the parts
            uint8_t * packed = made.scales + 12 * i;
            for (int r = 0; r < 4; r++) {
                packed[r] = static_cast<uint8_t>(scales[r][i] | (scales[r + 4][i] >> 4) << 6);
                packed[r + 4] = static_cast<uint8_t>(mins[r][i] | (mins[r + 4][i] >> 4) << 6);
                packed[r + 8] = static_cast<uint8_t>((scales[r + 4][i] & 15) | (mins[r + 4][i] & 15) << 4);
            }
        }
        std::memcpy(out, &made, sizeof made);
    }
}

// Columns as blocks, and the values that they stand for.
struct Columns {
    std::vector<std::vector<char>> blocks;
    std::vector<std::vector<double>> values;
};

Columns random_columns(Panel panel, int64_t k, int count) {
    Columns made;
    for (int c = 0; c < count; c++) {
        std::vector<char> blocks;
        std::vector<double> values;
        auto append = [&](const void * data, size_t size) {
            blocks.insert(blocks.end(), static_cast<const char *>(data), static_cast<const char *>(data) + size);
        };
        const bool extreme = random_int(0, 4) == 0;  // all values at a limit: the largest sums
        auto quant = [&] { return extreme ? 127 * (2 * random_int(0, 1) - 1) : random_int(-127, 127); };
        while (static_cast<int64_t>(values.size()) < k) {
            if (panel == Panel::FLOATS) {
                const float value = random_float(-2, 2);
                append(&value, sizeof value);
                values.push_back(value);
            } else if (panel == Panel::BYTES_32 || panel == Panel::BYTES_32_SUMS) {
                BlockQ8_0 block;
                block.d = random_half();
                for (auto & q : block.qs) {
                    q = static_cast<int8_t>(quant());
                    values.push_back(value_of(block.d) * q);
                }
                append(&block, sizeof block);
            } else {
                BlockQ8_K block;
                block.d = random_float(-1, 1);
                std::memset(block.bsums, 0, sizeof block.bsums);
                for (int i = 0; i < 256; i++) {
                    block.qs[i] = static_cast<int8_t>(quant());
                    block.bsums[i / 16] = static_cast<int16_t>(block.bsums[i / 16] + block.qs[i]);
                    values.push_back(static_cast<double>(block.d) * block.qs[i]);
                }
                append(&block, sizeof block);
            }
        }
        made.blocks.push_back(blocks);
        made.values.push_back(values);
    }
    return made;
}

// Memory that ends where the last byte is used, and begins `offset` bytes after a multiple of 32.
struct Exact {
    Exact(size_t size, size_t offset) : memory(static_cast<char *>(std::aligned_alloc(32, (size + offset + 31) / 32 * 32))) {
        // The end is what counts; so the beginning moves.
        const size_t total = (size + offset + 31) / 32 * 32;
        data = memory + (offset == 0 ? 0 : total - size) / 2 * 2;
    }
    ~Exact() { std::free(memory); }
    Exact(const Exact &) = delete;
    char * memory;
    char * data;
};

std::vector<float> compute(Weights type, int64_t k, int64_t rows, const char * data, size_t row_bytes,
                           const Columns & columns, int64_t stride, int threads) {
    const Format & form = format(type);
    const int n = static_cast<int>(columns.blocks.size());
    Exact panel(panel_bytes(form.panel, k, n), 0);
    const int64_t blocks = k / form.block_size;
    for (int c = 0; c < n; c++) {
        const size_t block_bytes = columns.blocks[static_cast<size_t>(c)].size() / static_cast<size_t>(blocks);
        const int64_t cut = random_int(0, static_cast<int>(blocks));  // threads pack parts of columns
        const char * from = columns.blocks[static_cast<size_t>(c)].data();
        pack(form.panel, k, n, c, cut, blocks - cut, from + static_cast<size_t>(cut) * block_bytes, panel.data);
        pack(form.panel, k, n, c, 0, cut, from, panel.data);
    }
    std::vector<float> result(static_cast<size_t>(stride * n), -77.0f);
    std::vector<std::thread> running;
    for (int t = 0; t < threads; t++) {
        const int64_t units = (rows + form.rows - 1) / form.rows;
        const int64_t first = units * t / threads * form.rows;
        const int64_t last = std::min(rows, units * (t + 1) / threads * form.rows);
        running.emplace_back([&, first, last] {
            multiply(type, k, n, data, row_bytes, first, last, panel.data, result.data(), stride);
        });
    }
    for (auto & thread : running) {
        thread.join();
    }
    return result;
}

void fail(const char * what, int type, int64_t k, int64_t rows, int n, double got, double wanted) {
    if (failures++ < 20) {
        std::printf("%s: format %d, k %ld, rows %ld, columns %d: %.9g instead of %.9g\n", what, type,
                    static_cast<long>(k), static_cast<long>(rows), n, got, wanted);
    }
}

bool same(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

void check(Weights type, int64_t blocks, int64_t rows, int n) {
    const Format & form = format(type);
    const Weights stored = plain(type);
    const int64_t k = blocks * form.block_size;
    const int number = static_cast<int>(type);
    if (!supported(type, k)) {
        fail("not supported", number, k, rows, n, 0, 1);
        return;
    }
    const size_t dense = form.block_bytes * static_cast<size_t>(blocks);
    const size_t row_bytes = dense + (form.rows == 1 ? 2 * static_cast<size_t>(random_int(0, 9)) : 0);
    std::vector<char> rows_apart(dense * static_cast<size_t>(rows));
    Exact data(row_bytes * static_cast<size_t>(rows - 1) + dense, 2);
    for (int64_t r = 0; r < rows; r++) {
        char * row = rows_apart.data() + dense * static_cast<size_t>(r);
        fill_row(stored, row, k);
        if (form.rows == 1) {
            std::memcpy(data.data + row_bytes * static_cast<size_t>(r), row, dense);
        }
    }
    for (int64_t r = 0; form.rows == 8 && r < rows; r += 8) {
        const auto begin = rows_apart.begin() + static_cast<std::ptrdiff_t>(dense) * r;
        interleave(type, {begin, begin + static_cast<std::ptrdiff_t>(8 * dense)}, k,
                   data.data + dense * static_cast<size_t>(r));
    }
    Columns columns = random_columns(form.panel, k, n);
    const int64_t stride = rows + random_int(0, 5);
    const auto result = compute(type, k, rows, data.data, row_bytes, columns, stride, 1);
    for (int c = 0; c < n; c++) {
        for (int64_t r = 0; r < stride; r++) {
            const double got = result[static_cast<size_t>(c * stride + r)];
            if (r >= rows) {
                if (got != -77.0) {
                    fail("wrote between columns", number, k, rows, n, got, -77);
                }
                continue;
            }
            double wanted = 0, size = 1e-30;
            for (int64_t i = 0; i < k; i++) {
                const Weight w = weight(stored, rows_apart.data() + dense * static_cast<size_t>(r), i);
                const double y = columns.values[static_cast<size_t>(c)][static_cast<size_t>(i)];
                wanted += (w.scaled - w.min) * y;
                size += (std::fabs(w.scaled) + std::fabs(w.min)) * std::fabs(y);
            }
            if (!(std::fabs(got - wanted) <= 2e-6 * size)) {
                fail("wrong", number, k, rows, n, got, wanted);
            }
        }
    }
    if (!same(result, compute(type, k, rows, data.data, row_bytes, columns, stride, random_int(2, 5)))) {
        fail("threads change the result", number, k, rows, n, 0, 0);
    }
    // A column's result does not depend on the others, whatever their number and values.
    const int kept = random_int(0, n - 1), others = random_int(MIN_COLUMNS, MAX_COLUMNS), place = random_int(0, others - 1);
    Columns changed = random_columns(form.panel, k, others);
    for (int c = 0; c < others; c++) {
        auto & blocks_of = changed.blocks[static_cast<size_t>(c)];
        const float bad = random_int(0, 1) ? std::numeric_limits<float>::quiet_NaN() : -HUGE_VALF;
        const half bad_half = bad != bad ? 0x7e00 : 0xfc00;
        const bool in_half = form.panel == Panel::BYTES_32 || form.panel == Panel::BYTES_32_SUMS;
        std::memcpy(blocks_of.data(), in_half ? static_cast<const void *>(&bad_half) : &bad, in_half ? 2 : 4);
    }
    changed.blocks[static_cast<size_t>(place)] = columns.blocks[static_cast<size_t>(kept)];
    const auto again = compute(type, k, rows, data.data, row_bytes, changed, stride, 1);
    if (std::memcmp(&again[static_cast<size_t>(place * stride)], &result[static_cast<size_t>(kept * stride)],
                    4 * static_cast<size_t>(rows)) != 0) {
        fail("a column depends on others", number, k, rows, n, 0, 0);
    }
    for (int64_t r = 0; r < rows; r++) {
        const float other = again[static_cast<size_t>((place + 1) % others * stride + r)];
        if (std::isfinite(other)) {
            fail("infinity or NaN was lost", number, k, rows, n, other, HUGE_VAL);
        }
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 1;
    const Weights all[] = {Weights::Q8_0, Weights::Q4_0, Weights::Q4_0x8, Weights::Q4_K, Weights::Q4_Kx8,
                           Weights::Q5_K, Weights::Q6_K, Weights::F16, Weights::BF16};
    for (int round = 0; round < rounds; round++) {
        for (const Weights type : all) {
            for (int n = MIN_COLUMNS; n <= MAX_COLUMNS; n++) {
                const bool eights = format(type).rows == 8;
                const int64_t rows = eights ? 8 * random_int(1, 3) : random_int(1, 19);
                check(type, random_int(1, format(type).block_size == 256 ? 3 : 9), rows, n);
            }
        }
    }
    std::printf("%d wrong\n", failures);
    return failures > 99 ? 99 : failures;
}
