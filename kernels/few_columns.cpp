// Panels, and the choice of a kernel.
#include "few_columns.h"

#include <algorithm>
#include <cstring>

#include "blocks.h"
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

const Format & format(Weights weights) {
    static const Format formats[] = {
        {Panel::BYTES_32, 32, sizeof(BlockQ8_0), 1},          // Q8_0
        {Panel::BYTES_32, 32, sizeof(BlockQ4_0), 1},          // Q4_0
        {Panel::BYTES_32_SUMS, 32, sizeof(BlockQ4_0), 8},     // Q4_0x8
        {Panel::BYTES_256, 256, sizeof(BlockQ4_K), 1},        // Q4_K
        {Panel::BYTES_256, 256, sizeof(BlockQ4_K), 8},        // Q4_Kx8
        {Panel::BYTES_256, 256, sizeof(BlockQ5_K), 1},        // Q5_K
        {Panel::BYTES_256_FINE, 256, sizeof(BlockQ6_K), 1},   // Q6_K
        {Panel::FLOATS, 8, 16, 1},                            // F16
        {Panel::FLOATS, 8, 16, 1},                            // BF16
    };
    return formats[static_cast<int>(weights)];
}

bool supported(Weights weights, int64_t k) {
    return FEW_COLUMNS_AVX2 != 0 && k > 0 && k % format(weights).block_size == 0;
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

void pack_32(const Layout & parts, char * out, int column, int width, const BlockQ8_0 & block) {
#if FEW_COLUMNS_AVX2
    put_scale(out, column, width, to_float(block.d));
#endif
    std::memcpy(out + parts.values + parts.column * static_cast<size_t>(column), block.qs, sizeof block.qs);
    if (parts.sums != 0) {
        int16_t * sums = reinterpret_cast<int16_t *>(out + parts.sums) + 4 * column;
        for (int lane = 0; lane < 4; lane++) {
            int sum = 0;
            for (int i = 2 * lane; i < 32; i += 8) {
                sum += block.qs[i] + block.qs[i + 1];
            }
            sums[lane] = static_cast<int16_t>(-8 * sum);
        }
    }
}

void pack_256(const Layout & parts, bool fine, char * out, int column, int width, const BlockQ8_K & block) {
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

Kernel kernel(Weights weights, int width) {
#if FEW_COLUMNS_AVX2
    static const Kernels * const all[] = {&Q8_0_KERNELS, &Q4_0_KERNELS, &Q4_0X8_KERNELS,
                                          &Q4_K_KERNELS, &Q4_KX8_KERNELS, &Q5_K_KERNELS,
                                          &Q6_K_KERNELS, &F16_KERNELS, &BF16_KERNELS};
    return all[static_cast<int>(weights)]->of_width[width];
#else
    static_cast<void>(weights);
    static_cast<void>(width);
    return nullptr;
#endif
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
                pack_32(parts, out, own, width, static_cast<const BlockQ8_0 *>(blocks)[i]);
                break;
            case Panel::BYTES_256:
            case Panel::BYTES_256_FINE:
                pack_256(parts, panel == Panel::BYTES_256_FINE, out, own, width,
                         static_cast<const BlockQ8_K *>(blocks)[i]);
                break;
            case Panel::FLOATS:
                std::memcpy(out + parts.column * static_cast<size_t>(own), static_cast<const float *>(blocks) + 8 * i,
                            parts.column);
                break;
        }
    }
}

void multiply(Weights weights, int64_t k, int columns, const char * data, size_t row_bytes, int64_t first,
              int64_t last, const char * panel, float * result, int64_t stride) {
    const Format & form = format(weights);
    const Layout parts = layout(form.panel);
    const Groups groups(form.panel, columns);
    const int64_t blocks = k / form.block_size;
    const int64_t at_once = groups.count == 1 ? last - first : ROWS_AT_ONCE;
    for (int64_t row = first; row < last; row += at_once) {
        const char * columns_of_group = panel;
        for (int group = 0; group < groups.count; group++) {
            const int width = groups.width(group);
            kernel(weights, width)({blocks, data + static_cast<size_t>(row) * row_bytes, row_bytes,
                                    std::min(at_once, last - row), columns_of_group,
                                    result + groups.start(group) * stride + row, stride});
            columns_of_group += group_bytes(parts, blocks, width);
        }
    }
}

}  // namespace few_columns
