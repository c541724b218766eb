// Guarded calls: a failed GGML_ASSERT or a C++ exception inside llama.cpp becomes LCH_FAILED and a message.

#include "helpers.hpp"

#include <cstdio>
#include <cstring>
#include <mutex>
#include <stdexcept>

using lch::as;
using lch::BatchStruct;
using lch::blob_of;
using lch::guarded;
using lch::ParamStruct;

namespace {

thread_local int  depth = 0;
thread_local char failure[2048] = "";

void (*python_stacks)(void) = nullptr;

// What an assertion throws. Derived from runtime_error so that llama.cpp's own handlers, such as the one that
// frees a half-loaded model, treat it like every other failure.
struct AssertionFailure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

int64_t address(void * pointer) {
    return static_cast<int64_t>(reinterpret_cast<intptr_t>(pointer));
}

// An assertion in the middle of a graph leaves the other compute threads waiting at a barrier, with pointers
// into frames that an exception would unwind: only the process can end.
bool inside_graph(const char * message) {
    const char * end = std::strchr(message, ' ');
    const char * hit = std::strstr(message, "ggml-cpu");
    return hit && (!end || hit < end);
}

}  // namespace

namespace lch {

Guarded::Guarded() {
    if (depth++ == 0) {
        log_call_begins();
    }
}

Guarded::~Guarded() { depth--; }

Unguarded::Unguarded() : depth_(depth) { depth = 0; }

Unguarded::~Unguarded() { depth = depth_; }

bool is_guarded() { return depth > 0; }

void remember(const char * message) { std::snprintf(failure, sizeof failure, "%s", message); }

}  // namespace lch

void lch_on_abort(const char * message) {
    if (depth > 0 && !inside_graph(message)) {
        throw AssertionFailure(message);
    }
    // Never unlocked: other compute threads fail at the same assertion and wait here for the process to end.
    static std::mutex first;
    first.lock();
    std::fprintf(stderr, "llama_cffi: llama.cpp failed an assertion that no Python call can report: %s\n", message);
    lch::log_dump_tail(16);
    std::fflush(stderr);
    if (python_stacks) {
        python_stacks();
    }
}

void lch_on_fatal(void (*stacks)(void)) { python_stacks = stacks; }

// Around Python code that runs inside a guarded call: see Unguarded.
int lch_unguard(void) {
    const int outside = depth;
    depth = 0;
    return outside;
}

void lch_reguard(int outside) { depth = outside; }

const char * lch_failure(void) { return failure; }

int64_t lch_batch(void * fn, void * ctx, void * batch, size_t size) {
    return guarded([&]() -> int64_t {
        return as<int32_t(void *, BatchStruct)>(fn)(ctx, blob_of<BatchStruct>(batch, size));
    });
}

int64_t lch_with_params(void * fn, void * first, void * params, size_t size) {
    return guarded([&] { return address(as<void *(void *, ParamStruct)>(fn)(first, blob_of<ParamStruct>(params, size))); });
}

int64_t lch_with_list(void * fn, void * list, size_t n, void * params, size_t size) {
    return guarded([&] {
        return address(as<void *(void *, size_t, ParamStruct)>(fn)(list, n, blob_of<ParamStruct>(params, size)));
    });
}

int64_t lch_decode_file(void * fn, void * ctx, const void * data, size_t n, int placeholder, void * options, size_t size,
                        void * out) {
    struct Pair {
        void * first;
        void * second;
    };
    return guarded([&]() -> int64_t {
        const Pair made = as<Pair(void *, const void *, size_t, bool, ParamStruct)>(fn)(
            ctx, data, n, placeholder != 0, blob_of<ParamStruct>(options, size));
        std::memcpy(out, &made, sizeof made);
        return 0;
    });
}

int64_t lch_sample(void * fn, void * chain, void * ctx, int32_t idx) {
    return guarded([&]() -> int64_t { return as<int32_t(void *, void *, int32_t)>(fn)(chain, ctx, idx); });
}

int64_t lch_accept(void * fn, void * sampler, int32_t token) {
    return guarded([&]() -> int64_t {
        as<void(void *, int32_t)>(fn)(sampler, token);
        return 0;
    });
}

// Integers and pointers travel alike in registers and in eight-byte stack slots, so that one signature serves
// them all; arguments that the function does not have are never looked at. The caller names the result type
// because the upper half of a narrow result is undefined.
int64_t lch_call(void * fn, int result, int64_t a0, int64_t a1, int64_t a2, int64_t a3,
                 int64_t a4, int64_t a5, int64_t a6, int64_t a7) {
    using Call = int64_t(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
    return guarded([&]() -> int64_t {
        const int64_t value = as<Call>(fn)(a0, a1, a2, a3, a4, a5, a6, a7);
        switch (result) {
            case LCH_VOID:   return 0;
            case LCH_BOOL:   return static_cast<uint8_t>(value) != 0;
            case LCH_INT32:  return static_cast<int32_t>(value);
            case LCH_UINT32: return static_cast<uint32_t>(value);
            default:         return value;
        }
    });
}
