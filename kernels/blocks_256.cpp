// Q4_K, Q5_K and Q6_K: 256 values whose 8 or 16 parts have integer scales of their own.
#include "kernel.h"
#include "layout.h"
#include "simd.h"

namespace few_columns {

#if FEW_COLUMNS_AVX2

namespace {

// A block as the products need it: unsigned values, and for each 32 of them the scales of what their products are
// added up to. `offsets` are multiplied with the sums of the columns' values.
struct Unpacked {
    alignas(32) uint8_t values[256];
    alignas(32) int16_t scales[8 * 16];
    alignas(32) int16_t offsets[16];
};

inline void put(void * address, __m256i vector) { _mm256_store_si256(static_cast<__m256i *>(address), vector); }

inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }

inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }

// Eight scales and eight mins of 6 bits, from 12 bytes.
inline void unpack_scales(const uint8_t * packed, Unpacked & out) {
    uint32_t a, b, c;
    std::memcpy(&a, packed, 4);
    std::memcpy(&b, packed + 4, 4);
    std::memcpy(&c, packed + 8, 4);
    const uint32_t low6 = 0x3f3f3f3f, low4 = 0x0f0f0f0f, top2 = 0x30303030;
    const uint64_t scales = (a & low6) | static_cast<uint64_t>((c & low4) | ((a >> 2) & top2)) << 32;
    const uint64_t mins = (b & low6) | static_cast<uint64_t>(((c >> 4) & low4) | ((b >> 2) & top2)) << 32;
    const __m128i wide = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(static_cast<int64_t>(scales)));
    alignas(16) int16_t each[8];
    _mm_store_si128(reinterpret_cast<__m128i *>(each), wide);
    for (int i = 0; i < 8; i++) {
        put(out.scales + 16 * i, _mm256_set1_epi16(each[i]));
    }
    _mm_store_si128(reinterpret_cast<__m128i *>(out.offsets),
                    _mm_cvtepu8_epi16(_mm_cvtsi64_si128(static_cast<int64_t>(mins))));
}

struct Q4_K {
    using Block = BlockQ4_K;
    static constexpr Panel PANEL = Panel::BYTES_256;
    static constexpr int OFFSET_PAIRS = 4;
    static void unpack(const Block & block, Unpacked & out) {
        for (int i = 0; i < 4; i++) {
            const __m256i bytes = load(block.qs + 32 * i);
            put(out.values + 64 * i, low_nibbles(bytes));
            put(out.values + 64 * i + 32, high_nibbles(bytes));
        }
        unpack_scales(block.scales, out);
    }
    static float offset_scale(const Block & block) { return to_float(block.dmin); }
};

struct Q5_K {
    using Block = BlockQ5_K;
    static constexpr Panel PANEL = Panel::BYTES_256;
    static constexpr int OFFSET_PAIRS = 4;
    static void unpack(const Block & block, Unpacked & out) {
        const __m256i fifth = load(block.qh);
        const __m256i sixteen = _mm256_set1_epi8(16);
        for (int i = 0; i < 4; i++) {
            const __m256i bytes = load(block.qs + 32 * i);
            const __m128i shift = _mm_cvtsi32_si128(2 * i);
            const __m256i bits = _mm256_srl_epi16(fifth, shift);  // bit 0: of the low nibbles; bit 1: of the high ones
            const __m256i low = _mm256_and_si256(_mm256_slli_epi16(bits, 4), sixteen);
            const __m256i high = _mm256_and_si256(_mm256_slli_epi16(bits, 3), sixteen);
            put(out.values + 64 * i, _mm256_or_si256(low_nibbles(bytes), low));
            put(out.values + 64 * i + 32, _mm256_or_si256(high_nibbles(bytes), high));
        }
        unpack_scales(block.scales, out);
    }
    static float offset_scale(const Block & block) { return to_float(block.dmin); }
};

struct Q6_K {
    using Block = BlockQ6_K;
    static constexpr Panel PANEL = Panel::BYTES_256_FINE;
    static constexpr int OFFSET_PAIRS = 8;
    static void unpack(const Block & block, Unpacked & out) {
        const __m256i two_bits = _mm256_set1_epi8(0x30);
        for (int i = 0; i < 2; i++) {
            const __m256i first = load(block.ql + 64 * i);
            const __m256i second = load(block.ql + 64 * i + 32);
            const __m256i top = load(block.qh + 32 * i);
            auto high = [&](__m256i bits) { return _mm256_and_si256(bits, two_bits); };
            uint8_t * values = out.values + 128 * i;
            put(values, _mm256_or_si256(low_nibbles(first), high(_mm256_slli_epi16(top, 4))));
            put(values + 32, _mm256_or_si256(low_nibbles(second), high(_mm256_slli_epi16(top, 2))));
            put(values + 64, _mm256_or_si256(high_nibbles(first), high(top)));
            put(values + 96, _mm256_or_si256(high_nibbles(second), high(_mm256_srli_epi16(top, 2))));
        }
        const __m256i scales =
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(block.scales)));
        put(out.offsets, scales);
        for (int i = 0; i < 8; i++) {
            const __m128i first = _mm_set1_epi16(out.offsets[2 * i]);
            put(out.scales + 16 * i, _mm256_set_m128i(_mm_set1_epi16(out.offsets[2 * i + 1]), first));
        }
    }
};

// The sums of the columns' values times what belongs to them, a lane for each column.
template <class F> __m256i offset_products(const Unpacked & block, const char * sums) {
    __m256i products = _mm256_setzero_si256();
    for (int i = 0; i < F::OFFSET_PAIRS; i++) {
        products = add_products(products, load(sums + 32 * i), broadcast_32(block.offsets + 2 * i));
    }
    return products;
}

template <class F, int C> struct Rows {
    static constexpr Layout LAYOUT = layout(F::PANEL);
    static constexpr bool SIGNED = F::PANEL == Panel::BYTES_256_FINE;  // values less 32, and no mins

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
        __m256 offsets = _mm256_setzero_ps();
        Unpacked x;
        const char * panel = part.panel;
        for (int64_t b = 0; b < part.blocks; b++, panel += LAYOUT.block_bytes(C)) {
            const Block & block = blocks[b];
            F::unpack(block, x);
            const __m256 column_scales = load_floats(panel);
            const __m256i products = offset_products<F>(x, panel + LAYOUT.sums);
            __m256i dots[C];
            if constexpr (SIGNED) {
                alignas(32) int32_t start[8];
                put(start, _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(products, 5)));
                for (int c = 0; c < C; c++) {
                    dots[c] = _mm256_zextsi128_si256(_mm_cvtsi32_si128(start[c]));
                }
            } else {
                const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(F::offset_scale(block)), column_scales);
                offsets = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), offsets);
                for (int c = 0; c < C; c++) {
                    dots[c] = _mm256_setzero_si256();
                }
            }
            for (int i = 0; i < 8; i++) {
                const __m256i values = load(x.values + 32 * i);
                const __m256i scales = load(x.scales + 16 * i);
                for (int c = 0; c < C; c++) {
                    const __m256i y = load(panel + LAYOUT.values + LAYOUT.column * c + 32 * i);
                    dots[c] = add_products(dots[c], _mm256_maddubs_epi16(values, y), scales);
                }
            }
            alignas(32) float scales[8];
            _mm256_store_ps(scales, _mm256_mul_ps(_mm256_set1_ps(to_float(block.d)), column_scales));
            for (int c = 0; c < C; c++) {
                sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c]), _mm256_broadcast_ss(&scales[c]), sums[c]);
            }
        }
        const __m256 result = _mm256_sub_ps(sums_of_lanes<C>(sums), offsets);
        store_lanes<C>(result, part.result + row, part.stride);
    }
};

template <int C> using RowsQ4_K = Rows<Q4_K, C>;
template <int C> using RowsQ5_K = Rows<Q5_K, C>;
template <int C> using RowsQ6_K = Rows<Q6_K, C>;

}  // namespace

const Kernels Q4_K_KERNELS = kernels_of<RowsQ4_K>();
const Kernels Q5_K_KERNELS = kernels_of<RowsQ5_K>();
const Kernels Q6_K_KERNELS = kernels_of<RowsQ6_K>();

#endif

}  // namespace few_columns
