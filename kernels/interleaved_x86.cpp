// Q4_0 and Q4_K with eight interleaved rows, as ggml's repacked buffers hold them on x86.
//
// A vector of weights has 8 bytes of each of its rows. 8 values of a column, broadcast, meet each of them.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_X86

namespace {

constexpr int ROWS_OF_VECTOR = 8 / VECTORS_OF_EIGHT;

// Four vectors of the same rows: 32 weights of each.
struct Weights32 {
    Ints of[4];

    // Sums of products of 8 values each, as int16.
    Ints dots_16(const char * values) const {
        const Ints a = multiply_bytes(of[0], broadcast_64(values));
        const Ints b = multiply_bytes(of[1], broadcast_64(values + 8));
        const Ints c = multiply_bytes(of[2], broadcast_64(values + 16));
        const Ints d = multiply_bytes(of[3], broadcast_64(values + 24));
        return add_16(add_16(a, b), add_16(c, d));
    }

    // Sums of products of 16 values each, more by what `start` has for the column.
    Ints dots(const char * values, const char * start) const {
#if FEW_COLUMNS_VNNI
        Ints sum = broadcast_64(start);
        for (int i = 0; i < 4; i++) {
            sum = add_dots(sum, of[i], broadcast_64(values + 8 * i));
        }
        return sum;
#else
        return add_products(zero_ints(), add_16(dots_16(values), broadcast_64(start)), ones_16());
#endif
    }
};

inline Floats scales_of_rows(const half * eight) { return row_lanes(_mm256_cvtph_ps(load_128(eight))); }

template <int C> void store_eight_rows(const Floats (&sums)[C], const Target & target) {
    for (int c = 0; c < C; c++) {
        _mm256_storeu_ps(target.results[c] + target.row, rows_of_lanes(sums[c]));
    }
}

template <int C> struct TileQ4_0x8 {
    static constexpr int ROWS = 8;
    static constexpr Layout LAYOUT = layout(Panel::BYTES_32_SUMS);

    static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
        Floats sums[C];
        for (int c = 0; c < C; c++) {
            sums[c] = zero_floats();
        }
        const char * panel = part.panel;
        for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
            const BlockQ4_0x8 & block = reinterpret_cast<const BlockQ4_0x8 *>(rows[0])[b];
            Weights32 weights[VECTORS_OF_EIGHT];  // unsigned: 8 more than they are; the column's sums make up for it
            for (int v = 0; v < VECTORS_OF_EIGHT; v++) {
                for (int step = 0; step < 2; step++) {
                    const Ints bytes = bits_xor(load_ints(block.qs + 64 * step + VECTOR * v), 0x88);
                    weights[v].of[step] = bits_and(bytes, 15);
                    weights[v].of[2 + step] = bits_and(shift_right_4(bytes), 15);
                }
            }
            const Floats row_scales = scales_of_rows(block.d);
            const float * column_scales = reinterpret_cast<const float *>(panel);
            for (int c = 0; c < C; c++) {
                Ints dots[VECTORS_OF_EIGHT];
                for (int v = 0; v < VECTORS_OF_EIGHT; v++) {
                    dots[v] = weights[v].dots(panel + LAYOUT.values + LAYOUT.column * c, panel + LAYOUT.sums + 8 * c);
                }
                const Floats scales = multiply(row_scales, broadcast(column_scales[c]));
                sums[c] = multiply_add(to_floats(join(dots)), scales, sums[c]);
            }
        }
        store_eight_rows(sums, target);
    }
};

// Which of eight bytes each int16 of a vector takes: four belong to a row.
alignas(64) constexpr int8_t FOUR_OF_EACH_ROW[64] = {
    0, -1, 0, -1, 0, -1, 0, -1, 1, -1, 1, -1, 1, -1, 1, -1,  //
    2, -1, 2, -1, 2, -1, 2, -1, 3, -1, 3, -1, 3, -1, 3, -1,  //
    4, -1, 4, -1, 4, -1, 4, -1, 5, -1, 5, -1, 5, -1, 5, -1,  //
    6, -1, 6, -1, 6, -1, 6, -1, 7, -1, 7, -1, 7, -1, 7, -1,
};

// int16 mins of two parts, for eight rows.
inline __m256i pair_mins(uint64_t first, uint64_t second) {
    return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(_mm_cvtsi64_si128(static_cast<int64_t>(first)),
                                                  _mm_cvtsi64_si128(static_cast<int64_t>(second))));
}

template <int C> struct TileQ4_Kx8 {
    static constexpr int ROWS = 8;
    static constexpr Layout LAYOUT = layout(Panel::BYTES_256);

    // Sums of the products of the rows of one vector with all columns.
    static void add_dots_of(const BlockQ4_Kx8 & block, const ScalesAndMins (&parts)[8], int vector, const char * panel,
                            Ints (&dots)[C][VECTORS_OF_EIGHT]) {
        Ints sums[C];
        for (int c = 0; c < C; c++) {
            sums[c] = zero_ints();
        }
        for (int i = 0; i < 8; i++) {
            Weights32 weights;
            for (int step = 0; step < 4; step++) {
                const Ints bytes = load_ints(block.qs + 256 * (i / 2) + 64 * step + VECTOR * vector);
                weights.of[step] = bits_and(i % 2 == 0 ? bytes : shift_right_4(bytes), 15);
            }
            const Ints scales = spread_rows(parts[i].scales, vector, FOUR_OF_EACH_ROW);
            for (int c = 0; c < C; c++) {
                const char * values = panel + LAYOUT.values + LAYOUT.column * c + 32 * i;
                sums[c] = add_products(sums[c], weights.dots_16(values), scales);
            }
        }
        for (int c = 0; c < C; c++) {
            dots[c][vector] = sums[c];
        }
    }

    static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
        Floats sums[C];
        for (int c = 0; c < C; c++) {
            sums[c] = zero_floats();
        }
        const char * panel = part.panel;
        for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
            const BlockQ4_Kx8 & block = reinterpret_cast<const BlockQ4_Kx8 *>(rows[0])[b];
            ScalesAndMins parts[8];
            __m256i mins[4];
            for (int i = 0; i < 8; i++) {
                parts[i] = unpack_scales(block.scales + 12 * i);
            }
            for (int i = 0; i < 4; i++) {
                mins[i] = pair_mins(parts[2 * i].mins, parts[2 * i + 1].mins);
            }
            Ints dots[C][VECTORS_OF_EIGHT];
            for (int vector = 0; vector < VECTORS_OF_EIGHT; vector++) {
                add_dots_of(block, parts, vector, panel, dots);
            }
            const Floats row_scales = scales_of_rows(block.d);
            const Floats row_offsets = once_for_each_row(scales_of_rows(block.dmin));
            const float * column_scales = reinterpret_cast<const float *>(panel);
            for (int c = 0; c < C; c++) {
                __m256i products = _mm256_setzero_si256();
                for (int i = 0; i < 4; i++) {
                    const __m256i pair = _mm256_set1_epi32(read_32(panel + LAYOUT.sums + 32 * i + 4 * c));
                    products = add_products_256(products, mins[i], pair);
                }
                const Floats scale = broadcast(column_scales[c]);
                const Floats offsets = row_lanes(_mm256_cvtepi32_ps(products));
                sums[c] = multiply_add(to_floats(join(dots[c])), multiply(row_scales, scale), sums[c]);
                sums[c] = multiply_subtract(offsets, multiply(row_offsets, scale), sums[c]);
            }
        }
        store_eight_rows(sums, target);
    }
};

}  // namespace

const Kernels Q4_0X8_BY_8_KERNELS = kernels_of<TileQ4_0x8>();
const Kernels Q4_KX8_BY_8_KERNELS = kernels_of<TileQ4_Kx8>();

#else

const Kernels Q4_0X8_BY_8_KERNELS = {};

#endif

}  // namespace few_columns
