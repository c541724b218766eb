// F16 and BF16: weights that become floats, and columns that are floats already.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_AVX2

namespace {

inline __m128i eight_halves(const char * address) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(address));
}

struct F16 {
    static __m256 floats(const char * address) { return _mm256_cvtph_ps(eight_halves(address)); }
};

struct BF16 {
    static __m256 floats(const char * address) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight_halves(address)), 16));
    }
};

constexpr Layout LAYOUT = layout(Panel::FLOATS);

// R rows, 1 or 2: each value of a column is loaded for both.
template <class F, int C, int R> void tile(const Part & part, int64_t row) {
    const char * rows[R];
    __m256 sums[R][C];
    for (int r = 0; r < R; r++) {
        rows[r] = part.data + static_cast<size_t>(row + r) * part.row_bytes;
        for (int c = 0; c < C; c++) {
            sums[r][c] = _mm256_setzero_ps();
        }
    }
    const char * panel = part.panel;
    for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
        if (R > 1 && b % 4 == 0) {
            // Two rows at once are two streams that end where the next ones began: the prefetcher does not follow.
            _mm_prefetch(rows[0] + R * part.row_bytes + 16 * b, _MM_HINT_T0);
            _mm_prefetch(rows[R - 1] + R * part.row_bytes + 16 * b, _MM_HINT_T0);
        }
        __m256 x[R];
        for (int r = 0; r < R; r++) {
            x[r] = F::floats(rows[r] + 16 * b);
        }
        for (int c = 0; c < C; c++) {
            const __m256 y = load_floats(panel + LAYOUT.column * c);
            for (int r = 0; r < R; r++) {
                sums[r][c] = _mm256_fmadd_ps(x[r], y, sums[r][c]);
            }
        }
    }
    for (int r = 0; r < R; r++) {
        store_lanes<C>(sums_of_lanes<C>(sums[r]), part.result + row + r, part.stride);
    }
}

template <class F, int C> struct Rows {
    static void run(const Part & part) {
        int64_t row = 0;
        for (; row + 2 <= part.rows; row += 2) {
            tile<F, C, 2>(part, row);
        }
        if (row < part.rows) {
            tile<F, C, 1>(part, row);
        }
    }
};

template <int C> using RowsF16 = Rows<F16, C>;
template <int C> using RowsBF16 = Rows<BF16, C>;

}  // namespace

const Kernels F16_KERNELS = kernels_of<RowsF16>();
const Kernels BF16_KERNELS = kernels_of<RowsBF16>();

#endif

}  // namespace few_columns
