// Q8_0 and Q4_0: 32 signed values under one scale.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_SIMD

namespace {

struct Q8_0 {
    using Block = BlockQ8_0;
    static Bytes32 values(const Block & block) { return load_bytes(block.qs); }
};

struct Q4_0 {
    using Block = BlockQ4_0;
    static Bytes32 values(const Block & block) { return load_nibbles(block.qs) - 8; }
};

constexpr Layout LAYOUT = layout(Panel::BYTES_32);

template <class F> struct Blocks32 {
    template <int C> struct Tile {
        static constexpr int ROWS = SIGNED_ROWS;

        static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
            using Block = typename F::Block;
            Floats sums[C];
            for (int c = 0; c < C; c++) {
                sums[c] = zero_floats();
            }
            const char * panel = part.panel;
            for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
                half scales_of_rows[ROWS];
                Bytes32 values[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    const Block & block = reinterpret_cast<const Block *>(rows[r])[b];
                    scales_of_rows[r] = block.d;
                    values[r] = F::values(block);
                    prefetch_next_tile<ROWS>(&block, part.row_bytes);
                }
                const RowScales scales(scales_of_rows, panel);
                const SignedBytes x(values);
                for (int c = 0; c < C; c++) {
                    const Ints dots = x.dots(panel + LAYOUT.values + LAYOUT.column * c);
                    sums[c] = multiply_add(to_floats(dots), scales.of(c), sums[c]);
                }
            }
            for (int r = 0; r < ROWS; r++) {
                store_row<C>(target, r, sums_of_row<C>(sums, r));
            }
        }
    };
};

}  // namespace

const Kernels Q8_0_KERNELS = kernels_of<Blocks32<Q8_0>::Tile>();
const Kernels Q4_0_KERNELS = kernels_of<Blocks32<Q4_0>::Tile>();

#else

const Kernels Q8_0_KERNELS = {}, Q4_0_KERNELS = {};

#endif

}  // namespace few_columns
