// The block formats of GGUF files, and ggml's formats for quantized columns and interleaved rows.
#pragma once

#include <cstdint>
#include <cstring>

namespace few_columns {

using half = uint16_t;  // IEEE 754 binary16

struct BlockQ8_0 {  // 32 values: d * qs
    half d;
    int8_t qs[32];
};

struct BlockQ4_0 {  // 32 values: d * (nibble - 8); low nibbles are the first 16
    half d;
    uint8_t qs[16];
};

struct BlockQ8_0x4 {  // four rows
    half d[4];
    int8_t qs[128];
};

struct BlockQ4_0x4 {  // four rows; nibbles with their top bit flipped
    half d[4];
    uint8_t qs[64];
};

struct BlockQ4_0x8 {  // eight rows; nibbles with their top bit flipped
    half d[8];
    uint8_t qs[128];
};

struct BlockQ4_K {  // 256 values: d * scale * nibble - dmin * min, with a scale and a min for each 32
    half d;
    half dmin;
    uint8_t scales[12];
    uint8_t qs[128];
};

struct BlockQ4_Kx8 {  // eight rows; scales[12 * i] holds those of part i of each row
    half d[8];
    half dmin[8];
    uint8_t scales[96];
    uint8_t qs[1024];
};

struct BlockQ5_K {  // as Q4_K, with a fifth bit in qh
    half d;
    half dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};

struct BlockQ6_K {  // 256 values: d * scale * (6 bits - 32), with a scale for each 16
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    half d;
};

struct BlockQ8_K {  // a column: d * qs, and the sums of each 16 qs
    float d;
    int8_t qs[256];
    int16_t bsums[16];
};

// Eight scales and eight mins, a byte each.
struct ScalesAndMins {
    uint64_t scales;
    uint64_t mins;
};

// From 12 bytes with 6 bits for each: those of the parts of a row, or those of one part of eight rows.
inline ScalesAndMins unpack_scales(const uint8_t * packed) {
    uint32_t a, b, c;
    std::memcpy(&a, packed, 4);
    std::memcpy(&b, packed + 4, 4);
    std::memcpy(&c, packed + 8, 4);
    const uint32_t low6 = 0x3f3f3f3f, low4 = 0x0f0f0f0f, top2 = 0x30303030;
    return {(a & low6) | static_cast<uint64_t>((c & low4) | ((a >> 2) & top2)) << 32,
            (b & low6) | static_cast<uint64_t>(((c >> 4) & low4) | ((b >> 2) & top2)) << 32};
}

static_assert(sizeof(BlockQ8_0) == 34, "padded");
static_assert(sizeof(BlockQ4_0) == 18, "padded");
static_assert(sizeof(BlockQ8_0x4) == 4 * 34, "padded");
static_assert(sizeof(BlockQ4_0x4) == 4 * 18, "padded");
static_assert(sizeof(BlockQ4_0x8) == 8 * 18, "padded");
static_assert(sizeof(BlockQ4_K) == 144, "padded");
static_assert(sizeof(BlockQ4_Kx8) == 8 * 144, "padded");
static_assert(sizeof(BlockQ5_K) == 176, "padded");
static_assert(sizeof(BlockQ6_K) == 210, "padded");
static_assert(sizeof(BlockQ8_K) == 292, "padded");

}  // namespace few_columns
