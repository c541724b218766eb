// Q4_0 and Q4_K with eight interleaved rows, as ggml's repacked buffers hold them on AVX2.
//
// 32 bytes of weights are 8 bytes of four rows. 8 values of a column, broadcast, meet each of the four; two int32 lanes
// of a sum belong to one row.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_AVX2

namespace {

// hadd of the sums of rows 0-3 and 4-7 gives the rows in this order; it is its own inverse.
inline __m256i shuffled_order() { return _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7); }

inline __m256 shuffled(__m256 rows) { return _mm256_permutevar8x32_ps(rows, shuffled_order()); }

// Sums of products of 8 values each, for four rows: 4 vectors of weights with 32 values of a column.
inline __m256i dot_32(const __m256i (&weights)[4], const char * values) {
    const __m256i a = _mm256_maddubs_epi16(weights[0], broadcast_64(values));
    const __m256i b = _mm256_maddubs_epi16(weights[1], broadcast_64(values + 8));
    const __m256i c = _mm256_maddubs_epi16(weights[2], broadcast_64(values + 16));
    const __m256i d = _mm256_maddubs_epi16(weights[3], broadcast_64(values + 24));
    return _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
}

template <int C> void store_rows(const __m256 (&sums)[C], const Part & part, int64_t row) {
    for (int c = 0; c < C; c++) {
        _mm256_storeu_ps(part.result + c * part.stride + row, shuffled(sums[c]));
    }
}

template <int C> struct RowsQ4_0x8 {
    static constexpr Layout LAYOUT = layout(Panel::BYTES_32_SUMS);

    static void run(const Part & part) {
        for (int64_t row = 0; row < part.rows; row += 8) {
            eight_rows(part, row);
        }
    }

    static void eight_rows(const Part & part, int64_t row) {
        const BlockQ4_0x8 * blocks =
            reinterpret_cast<const BlockQ4_0x8 *>(part.data + static_cast<size_t>(row) * part.row_bytes);
        const __m256i nibbles = _mm256_set1_epi8(15);
        const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x88));
        __m256 sums[C];
        for (int c = 0; c < C; c++) {
            sums[c] = _mm256_setzero_ps();
        }
        const char * panel = part.panel;
        for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
            const BlockQ4_0x8 & block = blocks[b];
            __m256i weights[2][4];  // unsigned: 8 more than they are; the column's sums make up for it
            for (int half = 0; half < 2; half++) {
                for (int step = 0; step < 2; step++) {
                    const __m256i bytes = _mm256_xor_si256(load(block.qs + 64 * step + 32 * half), flip);
                    weights[half][step] = _mm256_and_si256(bytes, nibbles);
                    weights[half][2 + step] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibbles);
                }
            }
            const __m256 row_scales = shuffled(to_floats(block.d));
            const float * column_scales = reinterpret_cast<const float *>(panel);
            for (int c = 0; c < C; c++) {
                const char * values = panel + LAYOUT.values + LAYOUT.column * c;
                const __m256i offset = broadcast_64(panel + LAYOUT.sums + 8 * c);
                const __m256i low = _mm256_add_epi16(dot_32(weights[0], values), offset);
                const __m256i high = _mm256_add_epi16(dot_32(weights[1], values), offset);
                // 16 products of at most 8 * 127 fit an int16.
                const __m256i dots = _mm256_madd_epi16(_mm256_hadd_epi16(low, high), _mm256_set1_epi16(1));
                const __m256 scales = _mm256_mul_ps(row_scales, _mm256_broadcast_ss(column_scales + c));
                sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales, sums[c]);
            }
        }
        store_rows(sums, part, row);
    }
};

// Scales or mins of one part of 32 values, for eight rows.
struct Eight {
    uint64_t scales;
    uint64_t mins;
};

inline Eight unpack_eight(const uint8_t * packed) {
    uint32_t a, b, c;
    std::memcpy(&a, packed, 4);
    std::memcpy(&b, packed + 4, 4);
    std::memcpy(&c, packed + 8, 4);
    const uint32_t low6 = 0x3f3f3f3f, low4 = 0x0f0f0f0f, top2 = 0x30303030;
    return {(a & low6) | static_cast<uint64_t>((c & low4) | ((a >> 2) & top2)) << 32,
            (b & low6) | static_cast<uint64_t>(((c >> 4) & low4) | ((b >> 2) & top2)) << 32};
}

// int16 scales of four rows, each four times: what the sums of a row in a vector are multiplied with.
inline __m256i spread_scales(uint64_t eight, int half) {
    const __m256i order = _mm256_setr_epi8(0, -1, 0, -1, 0, -1, 0, -1, 1, -1, 1, -1, 1, -1, 1, -1,  //
                                           2, -1, 2, -1, 2, -1, 2, -1, 3, -1, 3, -1, 3, -1, 3, -1);
    return _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(eight >> (32 * half))), order);
}

// int16 mins of two parts, for eight rows in the order of hadd.
inline __m256i pair_mins(uint64_t first, uint64_t second) {
    const __m128i bytes = _mm_unpacklo_epi8(_mm_cvtsi64_si128(static_cast<int64_t>(first)),
                                            _mm_cvtsi64_si128(static_cast<int64_t>(second)));
    return _mm256_permutevar8x32_epi32(_mm256_cvtepu8_epi16(bytes), shuffled_order());
}

template <int C> struct RowsQ4_Kx8 {
    static constexpr Layout LAYOUT = layout(Panel::BYTES_256);

    static void run(const Part & part) {
        for (int64_t row = 0; row < part.rows; row += 8) {
            eight_rows(part, row);
        }
    }

    // Sums of the products of four rows with all columns.
    static void four_rows(const BlockQ4_Kx8 & block, const Eight (&parts)[8], int half, const char * panel,
                          __m256i (&dots)[C]) {
        const __m256i nibbles = _mm256_set1_epi8(15);
        for (int c = 0; c < C; c++) {
            dots[c] = _mm256_setzero_si256();
        }
        for (int i = 0; i < 8; i++) {
            __m256i weights[4];
            for (int step = 0; step < 4; step++) {
                const __m256i bytes = load(block.qs + 256 * (i / 2) + 64 * step + 32 * half);
                weights[step] = _mm256_and_si256(i % 2 == 0 ? bytes : _mm256_srli_epi16(bytes, 4), nibbles);
            }
            const __m256i scales = spread_scales(parts[i].scales, half);
            for (int c = 0; c < C; c++) {
                const char * values = panel + LAYOUT.values + LAYOUT.column * c + 32 * i;
                dots[c] = add_products(dots[c], dot_32(weights, values), scales);
            }
        }
    }

    static void eight_rows(const Part & part, int64_t row) {
        const BlockQ4_Kx8 * blocks =
            reinterpret_cast<const BlockQ4_Kx8 *>(part.data + static_cast<size_t>(row) * part.row_bytes);
        __m256 sums[C];
        for (int c = 0; c < C; c++) {
            sums[c] = _mm256_setzero_ps();
        }
        const char * panel = part.panel;
        for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
            const BlockQ4_Kx8 & block = blocks[b];
            Eight parts[8];
            __m256i mins[4];
            for (int i = 0; i < 8; i++) {
                parts[i] = unpack_eight(block.scales + 12 * i);
            }
            for (int i = 0; i < 4; i++) {
                mins[i] = pair_mins(parts[2 * i].mins, parts[2 * i + 1].mins);
            }
            __m256i low[C], high[C];
            four_rows(block, parts, 0, panel, low);
            four_rows(block, parts, 1, panel, high);
            const __m256 row_scales = shuffled(to_floats(block.d));
            const __m256 row_offsets = shuffled(to_floats(block.dmin));
            const float * column_scales = reinterpret_cast<const float *>(panel);
            for (int c = 0; c < C; c++) {
                __m256i products = _mm256_setzero_si256();
                for (int i = 0; i < 4; i++) {
                    products = add_products(products, mins[i], broadcast_32(panel + LAYOUT.sums + 32 * i + 4 * c));
                }
                const __m256 scale = _mm256_broadcast_ss(column_scales + c);
                const __m256i dots = _mm256_hadd_epi32(low[c], high[c]);
                sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), _mm256_mul_ps(row_scales, scale), sums[c]);
                sums[c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(products), _mm256_mul_ps(row_offsets, scale), sums[c]);
            }
        }
        store_rows(sums, part, row);
    }
};

}  // namespace

const Kernels Q4_0X8_KERNELS = kernels_of<RowsQ4_0x8>();
const Kernels Q4_KX8_KERNELS = kernels_of<RowsQ4_Kx8>();

#endif

}  // namespace few_columns
