// The flag that llama.cpp looks at once per graph node: asked from another thread, a deadline, or a signal.

#include "helpers.hpp"

#include <atomic>
#include <chrono>

#if !defined(_WIN32)
#  include <time.h>
#endif

namespace {

constexpr int64_t kPollInterval = 50 * 1000 * 1000;

int (*poll_python)(void) = nullptr;

// The kernel's coarse clock where there is one: a few milliseconds of resolution for a few nanoseconds of time.
int64_t now() {
#if defined(CLOCK_MONOTONIC_COARSE)
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
#elif defined(__APPLE__)
    return static_cast<int64_t>(clock_gettime_nsec_np(CLOCK_UPTIME_RAW_APPROX));
#else
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

// The struct is plain C for cffi's sake; two threads meet only in these two fields.
std::atomic<int> & flag_of(lch_abort * state) {
    static_assert(sizeof(std::atomic<int>) == sizeof(int), "an atomic int must be a plain int");
    return *reinterpret_cast<std::atomic<int> *>(&state->flag);
}

std::atomic<int64_t> & deadline_of(lch_abort * state) {
    static_assert(sizeof(std::atomic<int64_t>) == sizeof(int64_t), "an atomic int64 must be a plain int64");
    return *reinterpret_cast<std::atomic<int64_t> *>(&state->deadline_ns);
}

}  // namespace

int64_t lch_abort_now(void) { return now(); }

void lch_abort_set(lch_abort * state, int value) { flag_of(state).store(value, std::memory_order_relaxed); }

int lch_abort_isset(lch_abort * state) { return flag_of(state).load(std::memory_order_relaxed); }

void lch_abort_arm(lch_abort * state) {
    state->poll_signals = lch_is_main_thread();
    state->next_poll_ns = now() + kPollInterval;
}

void lch_abort_deadline(lch_abort * state, int64_t deadline_ns) {
    deadline_of(state).store(deadline_ns, std::memory_order_relaxed);
}

bool lch_abort_check(void * data) {
    lch_abort * state = static_cast<lch_abort *>(data);
    if (flag_of(state).load(std::memory_order_relaxed)) {
        return true;
    }
    const int64_t deadline = deadline_of(state).load(std::memory_order_relaxed);
    if (!deadline && !state->poll_signals) {
        return false;
    }
    const int64_t time = now();
    if (deadline && time >= deadline) {
        return true;
    }
    if (state->poll_signals && time >= state->next_poll_ns && poll_python) {
        lch::Unguarded python;
        const int raised = poll_python();
        state->next_poll_ns = now() + kPollInterval;
        if (raised) {
            state->interrupted = 1;
            flag_of(state).store(1, std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

void lch_abort_signals(int (*poll)(void)) { poll_python = poll; }
