// Q4_K, Q5_K and Q6_K: 256 values whose 8 or 16 parts have integer scales of their own.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_SIMD

namespace {

// A block as the products need it: unsigned values, and for each 32 of them the scales of what their products are
// added up to. `offsets` are multiplied with the sums of the columns' values.
struct Unpacked {
    alignas(64) uint8_t values[256];
    alignas(64) Scale scales[8 * SCALES_OF_32];
    alignas(32) int16_t offsets[16];
};

inline void put_scales(const uint8_t * packed, Unpacked & out) {
    const ScalesAndMins both = unpack_scales(packed);
    int16_t scales[8];
    widen_unsigned(both.scales, scales);
    widen_unsigned(both.mins, out.offsets);
    for (int i = 0; i < 8; i += 2) {
        store_64(out.scales + SCALES_OF_32 * i, spread(scales[i]), spread(scales[i + 1]));
    }
}

struct Q4_K {
    using Block = BlockQ4_K;
    static constexpr Panel PANEL = Panel::BYTES_256;
    static constexpr int OFFSET_PAIRS = 4;
    static void unpack(const Block & block, Unpacked & out) {
        for (int i = 0; i < 4; i++) {
            const Bytes32 bytes = load_bytes(block.qs + 32 * i);
            store_64(out.values + 64 * i, bytes & 15, (bytes >> 4) & 15);
        }
        put_scales(block.scales, out);
    }
    static float offset_scale(const Block & block) { return to_float(block.dmin); }
};

struct Q5_K {
    using Block = BlockQ5_K;
    static constexpr Panel PANEL = Panel::BYTES_256;
    static constexpr int OFFSET_PAIRS = 4;
    static void unpack(const Block & block, Unpacked & out) {
        const Bytes32 fifth = load_bytes(block.qh);
        for (int i = 0; i < 4; i++) {
            const Bytes32 bytes = load_bytes(block.qs + 32 * i);
            const Bytes32 bits = fifth >> (2 * i);  // bit 0: of the low nibbles; bit 1: of the high ones
            store_64(out.values + 64 * i, (bytes & 15) | ((bits << 4) & 16), ((bytes >> 4) & 15) | ((bits << 3) & 16));
        }
        put_scales(block.scales, out);
    }
    static float offset_scale(const Block & block) { return to_float(block.dmin); }
};

struct Q6_K {
    using Block = BlockQ6_K;
    static constexpr Panel PANEL = Panel::BYTES_256_FINE;
    static constexpr int OFFSET_PAIRS = 8;
    static void unpack(const Block & block, Unpacked & out) {
        for (int i = 0; i < 2; i++) {
            const Bytes32 first = load_bytes(block.ql + 64 * i);
            const Bytes32 second = load_bytes(block.ql + 64 * i + 32);
            const Bytes32 top = load_bytes(block.qh + 32 * i);
            uint8_t * values = out.values + 128 * i;
            store_64(values, (first & 15) | ((top << 4) & 48), (second & 15) | ((top << 2) & 48));
            store_64(values + 64, ((first >> 4) & 15) | (top & 48), ((second >> 4) & 15) | ((top >> 2) & 48));
        }
        widen_signed(block.scales, out.offsets);
        for (int i = 0; i < 8; i += 2) {
            const int16_t * four = out.offsets + 2 * i;
            store_64(out.scales + SCALES_OF_32 * i, spread(four[0], four[1]), spread(four[2], four[3]));
        }
    }
};

// The sums of the columns' values times what belongs to them.
template <class F> ColumnInts offset_products(const Unpacked & block, const char * sums) {
    ColumnInts products = zero_column_ints();
    for (int i = 0; i < F::OFFSET_PAIRS; i++) {
        products = add_pairs(products, sums + 32 * i, block.offsets + 2 * i);
    }
    return products;
}

template <class F> struct Blocks256 {
    template <int C> struct Tile {
        static constexpr int ROWS = 1;
        static constexpr Layout LAYOUT = layout(F::PANEL);
        static constexpr bool SIGNED = F::PANEL == Panel::BYTES_256_FINE;  // values less 32, and no mins

        static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
            using Block = typename F::Block;
            Unpacked x;
            Floats sums[C];
            Columns offsets = zero_columns();
            for (int c = 0; c < C; c++) {
                sums[c] = zero_floats();
            }
            const char * panel = part.panel;
            for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
                const Block & block = reinterpret_cast<const Block *>(rows[0])[b];
                F::unpack(block, x);
                const Columns column_scales = load_columns(panel);
                const ColumnInts products = offset_products<F>(x, panel + LAYOUT.sums);
                Ints dots[C];
                if constexpr (SIGNED) {
                    alignas(32) int32_t of_column[GROUP];
                    store(of_column, products);
                    for (int c = 0; c < C; c++) {
                        dots[c] = in_first_lane(-32 * of_column[c]);
                    }
                } else {
                    offsets = add_scaled(offsets, products, column_scales * F::offset_scale(block));
                    for (int c = 0; c < C; c++) {
                        dots[c] = zero_ints();
                    }
                }
                for (int i = 0; i < 256; i += STEP) {
                    const ScaledBytes step(x.values + i, x.scales + i / 32 * SCALES_OF_32);
                    for (int c = 0; c < C; c++) {
                        dots[c] = step.add_dots_to(dots[c], panel + LAYOUT.values + LAYOUT.column * c + i);
                    }
                }
                alignas(32) float scales[GROUP];
                store(scales, column_scales * to_float(block.d));
                for (int c = 0; c < C; c++) {
                    sums[c] = multiply_add(to_floats(dots[c]), broadcast(scales[c]), sums[c]);
                }
            }
            store_row<C>(target, 0, sums_of_lanes<C>(sums) - offsets);
        }
    };
};

}  // namespace

const Kernels Q4_K_KERNELS = kernels_of<Blocks256<Q4_K>::Tile>();
const Kernels Q5_K_KERNELS = kernels_of<Blocks256<Q5_K>::Tile>();
const Kernels Q6_K_KERNELS = kernels_of<Blocks256<Q6_K>::Tile>();

#else

const Kernels Q4_K_KERNELS = {}, Q5_K_KERNELS = {}, Q6_K_KERNELS = {};

#endif

}  // namespace few_columns
