// Panels, and the choice of a kernel.
#include "few_columns.h"

#include <algorithm>
#include <cstring>

#include "blocks.h"
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

namespace {

constexpr Format halves(Panel panel) {
    const int block_size = layout(panel).block_size;
    return {panel, block_size, sizeof(half) * static_cast<size_t>(block_size), 1};
}

Kernel kernel(Weights weights, int width) {
    static const Kernels * const all[N_WEIGHTS] = {
        &Q8_0_KERNELS,        &Q4_0_KERNELS,        &Q4_K_KERNELS,        &Q5_K_KERNELS,        &Q6_K_KERNELS,
        &F16_KERNELS,         &BF16_KERNELS,        &Q8_0X4_BY_4_KERNELS, &Q8_0X4_BY_8_KERNELS, &Q4_0X4_BY_4_KERNELS,
        &Q4_0X4_BY_8_KERNELS, &Q4_0X8_BY_8_KERNELS, &Q4_KX8_BY_4_KERNELS, &Q4_KX8_BY_8_KERNELS,
    };
    return all[static_cast<int>(weights)]->of_width[width];
}

}  // namespace

const Format & format(Weights weights) {
    static constexpr Format formats[N_WEIGHTS] = {
        {Panel::BYTES_32, 32, sizeof(BlockQ8_0), 1},
        {Panel::BYTES_32, 32, sizeof(BlockQ4_0), 1},
        {Panel::BYTES_256, 256, sizeof(BlockQ4_K), 1},
        {Panel::BYTES_256, 256, sizeof(BlockQ5_K), 1},
        {Panel::BYTES_256_FINE, 256, sizeof(BlockQ6_K), 1},
        halves(Panel::FLOATS),
        halves(HALVES_AT_ONCE > 0 ? Panel::HALVES : Panel::FLOATS),
        {Panel::BYTES_32, 32, sizeof(BlockQ8_0), 4},
        {Panel::BYTES_32, 32, sizeof(BlockQ8_0), 4},
        {Panel::BYTES_32, 32, sizeof(BlockQ4_0), 4},
        {Panel::BYTES_32, 32, sizeof(BlockQ4_0), 4},
        {Panel::BYTES_32_SUMS, 32, sizeof(BlockQ4_0), 8},
        {Panel::BYTES_256, 256, sizeof(BlockQ4_K), 8},
        {Panel::BYTES_256, 256, sizeof(BlockQ4_K), 8},
    };
    return formats[static_cast<int>(weights)];
}

bool supported(Weights weights, int64_t k) {
    return kernel(weights, 1) != nullptr && k > 0 && k % format(weights).block_size == 0;
}

namespace {

// Of several groups, each computes so many rows before the next one does: it finds them in the cache.
constexpr int64_t ROWS_AT_ONCE = 32;

size_t group_bytes(const Layout & parts, int64_t blocks, int width) {
    return parts.block_bytes(width) * static_cast<size_t>(blocks);
}

void put_scale(char * block, int column, int width, float scale) {
    float * scales = reinterpret_cast<float *>(block);
    scales[column] = scale;
    if (column == 0) {  // lanes without a column are computed, too
        std::fill(scales + width, scales + GROUP, 0.0f);
    }
}

// -8 times the sums of what meets each lane of the products' sums: an int32 lane has 4 of 8 values, an int16 lane 2.
template <class T> void pack_sums(char * out, const BlockQ8_0 & block) {
    T sums[8 / sizeof(T)] = {};
    for (int i = 0; i < 32; i++) {
        T & sum = sums[i % 8 / static_cast<int>(sizeof(T))];
        sum = static_cast<T>(sum - 8 * block.qs[i]);
    }
    std::memcpy(out, sums, sizeof sums);
}

void pack_32(Panel panel, char * out, int column, int width, const BlockQ8_0 & block) {
    const Layout parts = layout(panel);
#if FEW_COLUMNS_SIMD
    put_scale(out, column, width, to_float(block.d));
#endif
    char * values = out + parts.values + parts.column * static_cast<size_t>(column);
    if (panel == Panel::BYTES_32) {
        for (int i = 0; i < 32; i++) {
            values[i] = static_cast<char>(block.qs[i] + COLUMN_OFFSET);
        }
        return;
    }
    std::memcpy(values, block.qs, sizeof block.qs);
    char * sums = out + parts.sums + 8 * column;
    if (SUMS_ARE_INT32) {
        pack_sums<int32_t>(sums, block);
    } else {
        pack_sums<int16_t>(sums, block);
    }
}

void pack_256(Panel panel, char * out, int column, int width, const BlockQ8_K & block) {
    const Layout parts = layout(panel);
    const bool fine = panel == Panel::BYTES_256_FINE;
    put_scale(out, column, width, block.d);
    std::memcpy(out + parts.values + parts.column * static_cast<size_t>(column), block.qs, sizeof block.qs);
    int16_t * sums = reinterpret_cast<int16_t *>(out + parts.sums);
    const int pairs = fine ? 8 : 4;
    for (int pair = 0; pair < pairs; pair++) {
        const int16_t * each = block.bsums + (fine ? 2 : 4) * pair;
        int16_t * target = sums + 2 * GROUP * pair;
        target[2 * column] = fine ? each[0] : static_cast<int16_t>(each[0] + each[1]);
        target[2 * column + 1] = fine ? each[1] : static_cast<int16_t>(each[2] + each[3]);
        if (column == 0) {
            std::fill(target + 2 * width, target + 2 * GROUP, static_cast<int16_t>(0));
        }
    }
}

}  // namespace

size_t panel_bytes(Panel panel, int64_t k, int columns) {
    const Layout parts = layout(panel);
    const Groups groups(panel, columns);
    size_t bytes = 0;
    for (int group = 0; group < groups.count; group++) {
        bytes += group_bytes(parts, k / parts.block_size, groups.width(group));
    }
    return bytes;
}

void pack(Panel panel, int64_t k, int columns, int column, int64_t first, int64_t count, const void * blocks,
          char * out) {
    const Layout parts = layout(panel);
    const Groups groups(panel, columns);
    int group = 0;
    while (column >= groups.start(group + 1)) {
        out += group_bytes(parts, k / parts.block_size, groups.width(group));
        group++;
    }
    const int width = groups.width(group);
    const int own = column - groups.start(group);
    out += parts.block_bytes(width) * static_cast<size_t>(first);
    for (int64_t i = 0; i < count; i++, out += parts.block_bytes(width)) {
        switch (panel) {
            case Panel::BYTES_32:
            case Panel::BYTES_32_SUMS:
                pack_32(panel, out, own, width, static_cast<const BlockQ8_0 *>(blocks)[i]);
                break;
            case Panel::BYTES_256:
            case Panel::BYTES_256_FINE:
                pack_256(panel, out, own, width, static_cast<const BlockQ8_K *>(blocks)[i]);
                break;
            case Panel::FLOATS:
            case Panel::HALVES:
                std::memcpy(out + parts.column * static_cast<size_t>(own),
                            static_cast<const char *>(blocks) + parts.column * static_cast<size_t>(i), parts.column);
                break;
        }
    }
}

void multiply(Weights weights, int64_t k, int columns, const char * data, size_t row_bytes, int64_t first,
              int64_t last, const char * panel, float * const * results) {
    const Format & form = format(weights);
    const Layout parts = layout(form.panel);
    const Groups groups(form.panel, columns);
    const int64_t blocks = k / form.block_size;
    const int64_t at_once = groups.count == 1 ? last - first : ROWS_AT_ONCE;
    for (int64_t row = first; row < last; row += at_once) {
        const char * columns_of_group = panel;
        for (int group = 0; group < groups.count; group++) {
            const int width = groups.width(group);
            kernel(weights, width)({blocks, data, row_bytes, row, std::min(last, row + at_once), columns_of_group,
                                    results + groups.start(group)});
            columns_of_group += group_bytes(parts, blocks, width);
        }
    }
}

}  // namespace few_columns
