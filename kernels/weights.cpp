#include "weights.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <typeinfo>

#include "blocks.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "repack.h"
#include "traits.h"

namespace few_columns {

namespace {

static_assert(sizeof(BlockQ8_0) == sizeof(block_q8_0), "ggml's Q8_0 has changed");
static_assert(sizeof(BlockQ4_0) == sizeof(block_q4_0), "ggml's Q4_0 has changed");
static_assert(sizeof(BlockQ4_K) == sizeof(block_q4_K), "ggml's Q4_K has changed");
static_assert(sizeof(BlockQ5_K) == sizeof(block_q5_K), "ggml's Q5_K has changed");
static_assert(sizeof(BlockQ6_K) == sizeof(block_q6_K), "ggml's Q6_K has changed");
static_assert(sizeof(BlockQ8_K) == sizeof(block_q8_K), "ggml's Q8_K has changed");
static_assert(sizeof(BlockQ8_0x4) == sizeof(block_q8_0x4), "ggml's repacked Q8_0 has changed");
static_assert(sizeof(BlockQ4_0x4) == sizeof(block_q4_0x4), "ggml's repacked Q4_0 has changed");
static_assert(sizeof(BlockQ4_0x8) == sizeof(block_q4_0x8), "ggml's repacked Q4_0 has changed");
static_assert(sizeof(BlockQ4_Kx8) == sizeof(block_q4_Kx8), "ggml's repacked Q4_K has changed");

bool plain_weights(enum ggml_type type, Weights & weights) {
    switch (type) {
        case GGML_TYPE_Q8_0: weights = Weights::Q8_0; return true;
        case GGML_TYPE_Q4_0: weights = Weights::Q4_0; return true;
        case GGML_TYPE_Q4_K: weights = Weights::Q4_K; return true;
        case GGML_TYPE_Q5_K: weights = Weights::Q5_K; return true;
        case GGML_TYPE_Q6_K: weights = Weights::Q6_K; return true;
        case GGML_TYPE_F16: weights = Weights::F16; return true;
        case GGML_TYPE_BF16: weights = Weights::BF16; return true;
        default: return false;
    }
}

#ifdef GGML_USE_CPU_REPACK

// ggml's repacked formats: rows of a block type that are interleaved by some bytes.
struct Repacked {
    enum ggml_type type;
    const char * block;
    int bytes;
    int rows;
    Weights weights;
};

constexpr Repacked REPACKED[] = {
    {GGML_TYPE_Q8_0, "block_q8_0", 4, 4, Weights::Q8_0x4_BY_4},
    {GGML_TYPE_Q8_0, "block_q8_0", 8, 4, Weights::Q8_0x4_BY_8},
    {GGML_TYPE_Q4_0, "block_q4_0", 4, 4, Weights::Q4_0x4_BY_4},
    {GGML_TYPE_Q4_0, "block_q4_0", 8, 4, Weights::Q4_0x4_BY_8},
    {GGML_TYPE_Q4_0, "block_q4_0", 8, 8, Weights::Q4_0x8_BY_8},
    {GGML_TYPE_Q4_K, "block_q4_K", 4, 8, Weights::Q4_Kx8_BY_4},
    {GGML_TYPE_Q4_K, "block_q4_K", 8, 8, Weights::Q4_Kx8_BY_8},
};

// Whether traits are those of a format. Their class is private to repack.cpp, so it goes by the name of the type: g++
// and clang write template arguments as l or x, MSVC in words.
bool is_named(const ggml::cpu::tensor_traits * traits, const Repacked & format) {
    const char * name = typeid(*traits).name();
    char arguments[3][64];
    for (int i = 0; i < 2; i++) {
        const char letter = i == 0 ? 'l' : 'x';
        std::snprintf(arguments[i], sizeof arguments[i], "%sL%c%dEL%c%dE", format.block, letter, format.bytes, letter,
                      format.rows);
    }
    std::snprintf(arguments[2], sizeof arguments[2], "%s,%d,%d,", format.block, format.bytes, format.rows);
    return std::any_of(arguments, arguments + 3, [&](const char * text) { return std::strstr(name, text) != nullptr; });
}

bool repacked_weights(const struct ggml_tensor * tensor, Weights & weights) {
    const auto * traits = static_cast<const ggml::cpu::tensor_traits *>(tensor->extra);
    if (traits == nullptr) {
        return false;
    }
    // The traits are single objects: once recognized, a comparison of addresses is enough.
    static std::atomic<const void *> known[std::size(REPACKED)];
    for (size_t i = 0; i < std::size(REPACKED); i++) {
        const Repacked & format = REPACKED[i];
        if (format.type != tensor->type || tensor->ne[1] % format.rows != 0) {
            continue;
        }
        if (known[i].load(std::memory_order_relaxed) == traits) {
            weights = format.weights;
            return true;
        }
        if (is_named(traits, format)) {
            known[i].store(traits, std::memory_order_relaxed);
            weights = format.weights;
            return true;
        }
    }
    return false;
}

#endif

}  // namespace

bool find_weights(const struct ggml_tensor * tensor, Weights & weights) {
    const ggml_backend_buffer_t buffer = tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
#ifdef GGML_USE_CPU_REPACK
    if (buffer != nullptr && buffer->buft == ggml_backend_cpu_repack_buffer_type()) {
        return tensor->view_src == nullptr && repacked_weights(tensor, weights);
    }
#endif
    if (tensor->extra != nullptr) {
        return false;
    }
    return (buffer == nullptr || ggml_backend_buffer_is_host(buffer)) && plain_weights(tensor->type, weights);
}

}  // namespace few_columns
