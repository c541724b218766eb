// F16 and BF16: weights that become floats, and columns that are floats already; or products of BF16 as they are.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_SIMD

namespace {

struct F16 {
    using Vector = Floats;
    static constexpr Panel PANEL = Panel::FLOATS;
    static Vector weights(const char * address) { return load_f16(address); }
    static Floats add(Floats sum, Vector x, const char * y) { return multiply_add(x, load_floats(y), sum); }
};

#if FEW_COLUMNS_BF16
struct BF16 {
    using Vector = Halves;
    static constexpr Panel PANEL = Panel::HALVES;
    static Vector weights(const char * address) { return load_halves(address); }
    static Floats add(Floats sum, Vector x, const char * y) { return add_products(sum, x, load_halves(y)); }
};
#else
struct BF16 {
    using Vector = Floats;
    static constexpr Panel PANEL = Panel::FLOATS;
    static Vector weights(const char * address) { return load_bf16(address); }
    static Floats add(Floats sum, Vector x, const char * y) { return multiply_add(x, load_floats(y), sum); }
};
#endif

// Two rows: each value of a column is loaded for both.
template <class F> struct TwoRows {
    template <int C> struct Tile {
        static constexpr int ROWS = 2;
        static constexpr Layout LAYOUT = layout(F::PANEL);
        static constexpr int BYTES = 2 * LAYOUT.block_size;

        static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
            Floats sums[ROWS][C];
            for (int r = 0; r < ROWS; r++) {
                for (int c = 0; c < C; c++) {
                    sums[r][c] = zero_floats();
                }
            }
            const char * panel = part.panel;
            for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
                typename F::Vector x[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    x[r] = F::weights(rows[r] + BYTES * b);
                    if (BYTES * b % 64 == 0) {
                        prefetch_next_tile<ROWS>(rows[r] + BYTES * b, part.row_bytes);
                    }
                }
                for (int c = 0; c < C; c++) {
                    for (int r = 0; r < ROWS; r++) {
                        sums[r][c] = F::add(sums[r][c], x[r], panel + LAYOUT.column * c);
                    }
                }
            }
            for (int r = 0; r < ROWS; r++) {
                store_row<C>(target, r, sums_of_lanes<C>(sums[r]));
            }
        }
    };
};

}  // namespace

const Kernels F16_KERNELS = kernels_of<TwoRows<F16>::Tile>();
const Kernels BF16_KERNELS = kernels_of<TwoRows<BF16>::Tile>();

#else

const Kernels F16_KERNELS = {}, BF16_KERNELS = {};

#endif

}  // namespace few_columns
