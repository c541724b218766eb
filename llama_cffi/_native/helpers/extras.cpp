// What llama.cpp tells in C++ alone: the buffers of a context and the tensors of a model. Both are containers of the
// standard library, so the caller makes sure that llama.cpp was compiled with the one of this file.

#include "helpers.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

using lch::as;
using lch::guarded;

namespace {

// llama_memory_breakdown of src/llama-ext.h.
struct Sizes {
    size_t model;
    size_t context;
    size_t compute;
};
using Breakdown = std::map<void *, Sizes>;

// The result of llama_internal_get_tensor_map.
using Tensors = std::vector<std::pair<std::string, void *>>;

uint64_t word(const void * pointer) { return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer)); }

}  // namespace

int64_t lch_buffers(void * fn, void * ctx, uint64_t * out, int64_t room) {
    return guarded([&]() -> int64_t {
        const Breakdown found = as<Breakdown(void *)>(fn)(ctx);
        int64_t n = 0;
        for (const auto & [type, sizes] : found) {
            if (n++ < room) {
                *out++ = word(type);
                *out++ = sizes.model;
                *out++ = sizes.context;
                *out++ = sizes.compute;
            }
        }
        return n;
    });
}

int64_t lch_tensors(void * fn, void * model, uint64_t * out, int64_t room) {
    return guarded([&]() -> int64_t {
        const Tensors & found = as<const Tensors &(void *)>(fn)(model);
        int64_t n = 0;
        for (const auto & entry : found) {
            if (n++ < room) {
                *out++ = word(entry.second);
            }
        }
        return n;
    });
}
