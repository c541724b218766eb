// Checks the kernels alone, without ggml: each format against a product in float64 of what its blocks say.
//
// Buffers have exactly the size that is used, so that the address sanitizer sees a read past an end. Prints one line for
// each thing that is wrong and returns how many there were, at most 99.
//
// Arguments: rounds, and the most rows of a product. With ONE_THREAD what threads would share out is computed by one: for
// emulators that have no more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#ifndef ONE_THREAD
#include <thread>
#endif
#include <vector>

#include "formats.h"

namespace {

int failures = 0;

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
            } else if (panel == Panel::HALVES) {
                const float value = static_cast<float>(random_int(-255, 255)) / 128;  // has 8 bits: it is a BF16
                append(reinterpret_cast<const char *>(&value) + 2, 2);
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

// Memory that ends where the last byte is used, and begins at a multiple of PANEL_ALIGNMENT or at an odd place.
struct Exact {
    Exact(size_t size, bool aligned) {
        const size_t total = (size + PANEL_ALIGNMENT) / PANEL_ALIGNMENT * PANEL_ALIGNMENT;
        void * block = nullptr;
        if (posix_memalign(&block, PANEL_ALIGNMENT, aligned ? size : total) != 0) {
            std::abort();
        }
        memory = static_cast<char *>(block);
        data = memory + (aligned ? 0 : total - size) / 2 * 2;
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
    Exact panel(panel_bytes(form.panel, k, n), true);
    const int64_t blocks = k / form.block_size;
    for (int c = 0; c < n; c++) {
        const size_t block_bytes = columns.blocks[static_cast<size_t>(c)].size() / static_cast<size_t>(blocks);
        const int64_t cut = random_int(0, static_cast<int>(blocks));  // threads pack parts of columns
        const char * from = columns.blocks[static_cast<size_t>(c)].data();
        pack(form.panel, k, n, c, cut, blocks - cut, from + static_cast<size_t>(cut) * block_bytes, panel.data);
        pack(form.panel, k, n, c, 0, cut, from, panel.data);
    }
    std::vector<float> result(static_cast<size_t>(stride * n), -77.0f);
    std::vector<float *> results;
    for (int c = 0; c < n; c++) {
        results.push_back(result.data() + stride * c);
    }
#ifndef ONE_THREAD
    std::vector<std::thread> running;
#endif
    for (int t = 0; t < threads; t++) {
        const int64_t units = (rows + form.rows - 1) / form.rows;
        const int64_t first = units * t / threads * form.rows;
        const int64_t last = std::min(rows, units * (t + 1) / threads * form.rows);
        auto run = [&, first, last] {
            multiply(type, k, n, data, row_bytes, first, last, panel.data, results.data());
        };
#ifdef ONE_THREAD
        run();
#else
        running.emplace_back(run);
#endif
    }
#ifndef ONE_THREAD
    for (auto & thread : running) {
        thread.join();
    }
#endif
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
    const size_t dense = form.block_bytes * static_cast<size_t>(blocks);
    const size_t row_bytes = dense + (form.rows == 1 ? 2 * static_cast<size_t>(random_int(0, 9)) : 0);
    std::vector<char> rows_apart(dense * static_cast<size_t>(rows));
    Exact data(row_bytes * static_cast<size_t>(rows - 1) + dense, false);
    for (int64_t r = 0; r < rows; r++) {
        char * row = rows_apart.data() + dense * static_cast<size_t>(r);
        fill_row(stored, row, k);
        if (form.rows == 1) {
            std::memcpy(data.data + row_bytes * static_cast<size_t>(r), row, dense);
        }
    }
    for (int64_t r = 0; form.rows > 1 && r < rows; r += form.rows) {
        const auto begin = rows_apart.begin() + static_cast<std::ptrdiff_t>(dense) * r;
        interleave(type, {begin, begin + static_cast<std::ptrdiff_t>(form.rows * dense)}, k,
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
    const int kept = random_int(0, n - 1), others = random_int(2, MAX_COLUMNS), place = random_int(0, others - 1);
    Columns changed = random_columns(form.panel, k, others);
    for (int c = 0; c < others; c++) {
        auto & blocks_of = changed.blocks[static_cast<size_t>(c)];
        const float bad = random_int(0, 1) ? std::numeric_limits<float>::quiet_NaN() : -HUGE_VALF;
        const half bad_half = bad != bad ? 0x7e00 : 0xfc00;
        const bool in_half = form.panel == Panel::BYTES_32 || form.panel == Panel::BYTES_32_SUMS;
        const char * as_float = reinterpret_cast<const char *>(&bad);
        if (form.panel == Panel::HALVES) {
            std::memcpy(blocks_of.data(), as_float + 2, 2);
        } else {
            std::memcpy(blocks_of.data(), in_half ? reinterpret_cast<const char *>(&bad_half) : as_float, in_half ? 2 : 4);
        }
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
    const int most_rows = argc > 2 ? std::atoi(argv[2]) : 24;
    int formats = 0;
    for (int i = 0; i < N_WEIGHTS; i++) {
        const Weights type = static_cast<Weights>(i);
        const Format & form = format(type);
        if (!supported(type, form.block_size)) {
            continue;  // as many as the CPU must have are counted by what runs this
        }
        formats++;
        for (int round = 0; round < rounds; round++) {
            for (int n = 1; n <= MAX_COLUMNS; n++) {
                const int64_t rows = form.rows * random_int(1, std::max(1, most_rows / form.rows));
                check(type, random_int(1, form.block_size == 256 ? 3 : 200 / form.block_size + 3), rows, n);
            }
        }
    }
    std::printf("%d formats, %d wrong\n", formats, failures);
    return failures > 99 ? 99 : failures;
}
