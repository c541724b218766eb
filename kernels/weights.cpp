#include "weights.h"

#include <atomic>
#include <cstring>
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

// Whether traits are those of a block type with 8 rows interleaved by 8 bytes. Their class is private to repack.cpp,
// so it goes by the name of the type: g++ and clang write template arguments as l or x, MSVC in words.
bool interleaved_by_8(const ggml::cpu::tensor_traits * traits, const char * mangled, const char * plain) {
    const char * name = typeid(*traits).name();
    if (const char * found = std::strstr(name, mangled)) {
        const char * arguments = found + std::strlen(mangled);
        return std::strncmp(arguments, "Ll8ELl8E", 8) == 0 || std::strncmp(arguments, "Lx8ELx8E", 8) == 0;
    }
    return std::strstr(name, plain) != nullptr;
}

bool repacked_weights(const struct ggml_tensor * tensor, Weights & weights) {
    const auto * traits = static_cast<const ggml::cpu::tensor_traits *>(tensor->extra);
    if (traits == nullptr || tensor->ne[1] % 8 != 0) {
        return false;
    }
    // The traits are single objects: once recognized, a comparison of addresses is enough.
    static std::atomic<const void *> known_q4_0, known_q4_K;
    auto is = [&](std::atomic<const void *> & known, const char * mangled, const char * plain) {
        if (known.load(std::memory_order_relaxed) == traits) {
            return true;
        }
        if (!interleaved_by_8(traits, mangled, plain)) {
            return false;
        }
        known.store(traits, std::memory_order_relaxed);
        return true;
    };
    if (tensor->type == GGML_TYPE_Q4_0 && is(known_q4_0, "10block_q4_0", "block_q4_0,8,8")) {
        weights = Weights::Q4_0x8;
        return true;
    }
    if (tensor->type == GGML_TYPE_Q4_K && is(known_q4_K, "10block_q4_K", "block_q4_K,8,8")) {
        weights = Weights::Q4_Kx8;
        return true;
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
