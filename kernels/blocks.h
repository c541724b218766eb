// The block formats of GGUF files, and ggml's formats for quantized columns and interleaved rows.
#pragma once

#include <cstdint>

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

static_assert(sizeof(BlockQ8_0) == 34, "padded");
static_assert(sizeof(BlockQ4_0) == 18, "padded");
static_assert(sizeof(BlockQ4_0x8) == 8 * 18, "padded");
static_assert(sizeof(BlockQ4_K) == 144, "padded");
static_assert(sizeof(BlockQ4_Kx8) == 8 * 144, "padded");
static_assert(sizeof(BlockQ5_K) == 176, "padded");
static_assert(sizeof(BlockQ6_K) == 210, "padded");
static_assert(sizeof(BlockQ8_K) == 292, "padded");

}  // namespace few_columns
