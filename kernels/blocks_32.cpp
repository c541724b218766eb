// Q8_0 and Q4_0: 32 signed values under one scale.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_AVX2

namespace {

struct Q8_0 {
    using Block = BlockQ8_0;
    static __m256i values(const Block & block) { return load(block.qs); }
};

struct Q4_0 {
    using Block = BlockQ4_0;
    static __m256i values(const Block & block) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(block.qs));
        const __m256i pairs = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
        return _mm256_sub_epi8(_mm256_and_si256(pairs, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
    }
};

constexpr Layout LAYOUT = layout(Panel::BYTES_32);

template <class F, int C> struct Rows {
    static void run(const Part & part) {
        for (int64_t row = 0; row < part.rows; row++) {
            one_row(part, row);
        }
    }

    static void one_row(const Part & part, int64_t row) {
        using Block = typename F::Block;
        const Block * blocks =
            reinterpret_cast<const Block *>(part.data + static_cast<size_t>(row) * part.row_bytes);
        __m256 sums[C];
        for (int c = 0; c < C; c++) {
            sums[c] = _mm256_setzero_ps();
        }
        const char * panel = part.panel;
        for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
            // The scale of each product: broadcasting one from memory costs no vector instruction.
            alignas(32) float scales[8];
            _mm256_store_ps(scales, _mm256_mul_ps(_mm256_set1_ps(to_float(blocks[b].d)), load_floats(panel)));
            // |x| * (y with the sign of x) is what maddubs and dpbusd can multiply.
            const __m256i x = F::values(blocks[b]);
            const __m256i magnitudes = _mm256_abs_epi8(x);
            for (int c = 0; c < C; c++) {
                const __m256i y = load(panel + LAYOUT.values + LAYOUT.column * c);
                const __m256i dots = dot_bytes(magnitudes, _mm256_sign_epi8(y, x));
                sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), _mm256_broadcast_ss(&scales[c]), sums[c]);
            }
        }
        store_lanes<C>(sums_of_lanes<C>(sums), part.result + row, part.stride);
    }
};

template <int C> using RowsQ8_0 = Rows<Q8_0, C>;
template <int C> using RowsQ4_0 = Rows<Q4_0, C>;

}  // namespace

const Kernels Q8_0_KERNELS = kernels_of<RowsQ8_0>();
const Kernels Q4_0_KERNELS = kernels_of<RowsQ4_0>();

#endif

}  // namespace few_columns
