// Q8_0, Q4_0 and Q4_K with interleaved rows, as ggml's repacked buffers hold them on ARM: by 4 bytes where there is
// dotprod, by 8 where there is i8mm, too.
//
// 16 bytes of weights are 4 bytes of four rows, or 8 bytes of two. As many values of a column, broadcast, meet each.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_SIMD && !FEW_COLUMNS_X86 && defined(__ARM_FEATURE_DOTPROD)

namespace {

template <int BYTES> int8x16_t broadcast_bytes(const char * values) {
    if constexpr (BYTES == 4) {
        return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t *>(values)));
    } else {
        return vreinterpretq_s8_s64(vld1q_dup_s64(reinterpret_cast<const int64_t *>(values)));
    }
}

// 32 weights of four rows, interleaved by BYTES.
template <int BYTES> struct FourRows {
    int8x16_t vectors[8];

    // The sums of a row's products with 32 values, a lane for each row.
    int32x4_t dots(const char * values) const {
        if constexpr (BYTES == 4) {
            int32x4_t sum = vdupq_n_s32(0);
            for (int i = 0; i < 8; i++) {
                sum = vdotq_s32(sum, vectors[i], broadcast_bytes<4>(values + 4 * i));
            }
            return sum;
        } else {
            int32x4_t first = vdupq_n_s32(0), last = vdupq_n_s32(0);  // rows 0 and 1, rows 2 and 3
            for (int i = 0; i < 4; i++) {
                const int8x16_t y = broadcast_bytes<8>(values + 8 * i);
                first = vdotq_s32(first, vectors[2 * i], y);
                last = vdotq_s32(last, vectors[2 * i + 1], y);
            }
            return vpaddq_s32(first, last);
        }
    }
};

inline float32x4_t four_halves(const half * address) { return load_f16(address); }

struct Q8_0 {
    using Block = BlockQ8_0x4;
    static constexpr float FACTOR = 1;
    static void unpack(const Block & block, int8x16_t * vectors) {
        for (int i = 0; i < 8; i++) {
            vectors[i] = vld1q_s8(block.qs + 16 * i);
        }
    }
};

struct Q4_0 {
    using Block = BlockQ4_0x4;
    static constexpr float FACTOR = 1.0f / 16;  // a nibble at the top of a byte: it has its sign there
    static void unpack(const Block & block, int8x16_t * vectors) {
        for (int i = 0; i < 4; i++) {
            const uint8x16_t bytes = vld1q_u8(block.qs + 16 * i);
            vectors[i] = vreinterpretq_s8_u8(vshlq_n_u8(bytes, 4));
            vectors[4 + i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0xf0)));
        }
    }
};

template <class F, int BYTES> struct Blocks32x4 {
    template <int C> struct Tile {
        static constexpr int ROWS = 4;
        static constexpr Layout LAYOUT = layout(Panel::BYTES_32);

        static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
            float32x4_t sums[C];
            for (int c = 0; c < C; c++) {
                sums[c] = vdupq_n_f32(0);
            }
            const char * panel = part.panel;
            for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
                const auto & block = reinterpret_cast<const typename F::Block *>(rows[0])[b];
                FourRows<BYTES> x;
                F::unpack(block, x.vectors);
                const float32x4_t row_scales = vmulq_n_f32(four_halves(block.d), F::FACTOR);
                const float * column_scales = reinterpret_cast<const float *>(panel);
                for (int c = 0; c < C; c++) {
                    const int32x4_t dots = x.dots(panel + LAYOUT.values + LAYOUT.column * c);
                    sums[c] = vfmaq_f32(sums[c], vcvtq_f32_s32(dots), vmulq_n_f32(row_scales, column_scales[c]));
                }
            }
            for (int c = 0; c < C; c++) {
                vst1q_f32(target.results[c] + target.row, sums[c]);
            }
        }
    };
};

// Scales or mins of one part, for rows 0 to 3 and 4 to 7.
struct EightRows {
    explicit EightRows(uint64_t bytes) : all(vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(bytes)))) {}
    int16x4_t half(int i) const { return i == 0 ? vget_low_s16(all) : vget_high_s16(all); }
    int16x8_t all;
};

template <int BYTES> struct BlocksQ4_Kx8 {
    template <int C> struct Tile {
        static constexpr int ROWS = 8;
        static constexpr Layout LAYOUT = layout(Panel::BYTES_256);

        static void compute(const char * const (&rows)[ROWS], const Part & part, const Target & target) {
            const auto * blocks = reinterpret_cast<const BlockQ4_Kx8 *>(rows[0]);
            for (int half = 0; half < 2; half++) {
                four_rows(blocks, half, part, target);
            }
        }

        static FourRows<BYTES> weights(const BlockQ4_Kx8 & block, int part, int half) {
            FourRows<BYTES> x;
            for (int i = 0; i < 8; i++) {
                const int place = BYTES == 4 ? 32 * i + 16 * half : 64 * (i / 2) + 32 * half + 16 * (i % 2);
                const uint8x16_t bytes = vld1q_u8(block.qs + 256 * (part / 2) + place);
                const uint8x16_t nibbles = part % 2 == 0 ? vandq_u8(bytes, vdupq_n_u8(15)) : vshrq_n_u8(bytes, 4);
                x.vectors[i] = vreinterpretq_s8_u8(nibbles);
            }
            return x;
        }

        static void four_rows(const BlockQ4_Kx8 * blocks, int half, const Part & part, const Target & target) {
            float32x4_t sums[C];
            for (int c = 0; c < C; c++) {
                sums[c] = vdupq_n_f32(0);
            }
            const char * panel = part.panel;
            for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
                const BlockQ4_Kx8 & block = blocks[b];
                int32x4_t dots[C], offsets[C];
                for (int c = 0; c < C; c++) {
                    dots[c] = offsets[c] = vdupq_n_s32(0);
                }
                for (int i = 0; i < 8; i++) {
                    const ScalesAndMins both = unpack_scales(block.scales + 12 * i);
                    const int32x4_t scales = vmovl_s16(EightRows(both.scales).half(half));
                    const int16x4_t mins = EightRows(both.mins).half(half);
                    const FourRows<BYTES> x = weights(block, i, half);
                    const char * sums_of_pair = panel + LAYOUT.sums + 32 * (i / 2);
                    const int16_t * sums_of_part = reinterpret_cast<const int16_t *>(sums_of_pair) + i % 2;
                    for (int c = 0; c < C; c++) {
                        const char * values = panel + LAYOUT.values + LAYOUT.column * c + 32 * i;
                        dots[c] = vmlaq_s32(dots[c], x.dots(values), scales);
                        offsets[c] = vmlal_n_s16(offsets[c], mins, sums_of_part[2 * c]);
                    }
                }
                const float32x4_t row_scales = four_halves(block.d + 4 * half);
                const float32x4_t row_offsets = four_halves(block.dmin + 4 * half);
                const float * column_scales = reinterpret_cast<const float *>(panel);
                for (int c = 0; c < C; c++) {
                    const float scale = column_scales[c];
                    sums[c] = vfmaq_f32(sums[c], vcvtq_f32_s32(dots[c]), vmulq_n_f32(row_scales, scale));
                    sums[c] = vfmsq_f32(sums[c], vcvtq_f32_s32(offsets[c]), vmulq_n_f32(row_offsets, scale));
                }
            }
            for (int c = 0; c < C; c++) {
                vst1q_f32(target.results[c] + target.row + 4 * half, sums[c]);
            }
        }
    };
};

}  // namespace

const Kernels Q8_0X4_BY_4_KERNELS = kernels_of<Blocks32x4<Q8_0, 4>::Tile>();
const Kernels Q8_0X4_BY_8_KERNELS = kernels_of<Blocks32x4<Q8_0, 8>::Tile>();
const Kernels Q4_0X4_BY_4_KERNELS = kernels_of<Blocks32x4<Q4_0, 4>::Tile>();
const Kernels Q4_0X4_BY_8_KERNELS = kernels_of<Blocks32x4<Q4_0, 8>::Tile>();
const Kernels Q4_KX8_BY_4_KERNELS = kernels_of<BlocksQ4_Kx8<4>::Tile>();
const Kernels Q4_KX8_BY_8_KERNELS = kernels_of<BlocksQ4_Kx8<8>::Tile>();

#else

const Kernels Q8_0X4_BY_4_KERNELS = {}, Q8_0X4_BY_8_KERNELS = {}, Q4_0X4_BY_4_KERNELS = {}, Q4_0X4_BY_8_KERNELS = {},
              Q4_KX8_BY_4_KERNELS = {};
#if !FEW_COLUMNS_X86
const Kernels Q4_KX8_BY_8_KERNELS = {};
#endif

#endif

}  // namespace few_columns
