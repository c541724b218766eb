// One copy of the loops of kernels.inc for each instruction set worth having, and the choice between them.

#include "kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace lch {
namespace {

constexpr float kLog2e = 1.44269504f;

// 2^f on [-0.5, 0.5]: minimax in relative error. The exact one has 1 for its constant term.
constexpr float kExact1 = 0.6931470036506653f;
constexpr float kExact2 = 0.24022242426872253f;
constexpr float kExact3 = 0.05550733581185341f;
constexpr float kExact4 = 0.009671512991189957f;
constexpr float kExact5 = 0.001326472731307149f;

constexpr float kRough0 = 1.0004431009292603f;
constexpr float kRough1 = 0.7034480571746826f;
constexpr float kRough2 = 0.23842893540859222f;

// exp(x - top) is 2^(x * kLog2e - shift) * unshift.
float shift_of(const Row & row) { return std::nearbyint(row.top * kLog2e); }

double unshift(const Row & row) {
    return std::exp2(static_cast<double>(shift_of(row)) - static_cast<double>(row.top) * static_cast<double>(kLog2e));
}

#if defined(__x86_64__)

namespace avx512 {
#define LCH_NAME "avx512"
#define LCH_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define LCH_WIDTH 16
// The unmasked intrinsic makes GCC 12 warn of an uninitialized value in its own header.
#define LCH_SCALE(x, exponent) _mm512_maskz_scalef_ps(0xffff, x, exponent)
#include "kernels.inc"
}  // namespace avx512

namespace avx2 {
#define LCH_NAME "avx2"
#define LCH_TARGET __attribute__((target("avx2,fma")))
#define LCH_WIDTH 8
#include "kernels.inc"
}  // namespace avx2

#endif

namespace baseline {
#define LCH_NAME "baseline"
#define LCH_TARGET
#define LCH_WIDTH 4
#include "kernels.inc"
}  // namespace baseline

// Best first; nullptr where this CPU cannot run it.
const Kernels * const * variants() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    static const Kernels * const all[] = {
        has_avx512 ? &avx512::table : nullptr, has_avx2 ? &avx2::table : nullptr, &baseline::table,
    };
#else
    static const Kernels * const all[] = {nullptr, nullptr, &baseline::table};
#endif
    return all;
}

const Kernels * find(const char * name) {
    const Kernels * const * all = variants();
    const auto * found = std::find_if(all, all + 3, [&](const Kernels * k) {
        return k && (!name || !std::strcmp(k->name, name));
    });
    return found == all + 3 ? nullptr : *found;
}

const Kernels * chosen = find(nullptr);

}  // namespace

const Kernels & kernels() { return *chosen; }

bool use_kernels(const char * name) {
    const Kernels * found = find(name);
    if (found) {
        chosen = found;
    }
    return found;
}

}  // namespace lch
