// Who is inside a native object: one thread at a time. Entering never waits.

#include "helpers.hpp"

#include <atomic>

#if defined(_WIN32)
#  include <windows.h>
#else
#  include <pthread.h>
#endif

namespace {

// What Python calls a thread's ident; no two live threads share it, and it is not 0.
uint64_t this_thread() {
#if defined(_WIN32)
    return GetCurrentThreadId();
#else
    return (uint64_t) pthread_self();
#endif
}

std::atomic<uint64_t> main_thread{0};
std::atomic<uint64_t> forks{0};

#if !defined(_WIN32)
// The thread that forks is the main thread of the child, and the only one.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    forks++;
    main_thread = this_thread();
});
#endif

std::atomic<uint64_t> & owner_of(lch_door * door) {
    static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t), "an atomic uint64 must be a plain uint64");
    return *reinterpret_cast<std::atomic<uint64_t> *>(&door->owner);
}

}  // namespace

void lch_door_init(lch_door * door) {
    *door = {};
    door->forks = forks.load(std::memory_order_relaxed);
}

int lch_door_enter(lch_door * door) {
    std::atomic<uint64_t> & owner = owner_of(door);
    const uint64_t thread = this_thread();
    if (owner.load(std::memory_order_relaxed) == thread) {
        return door->computing ? LCH_DOOR_COMPUTING : LCH_DOOR_NESTED;
    }
    if (door->forks != forks.load(std::memory_order_relaxed)) {
        return LCH_DOOR_FORKED;
    }
    uint64_t nobody = 0;
    return owner.compare_exchange_strong(nobody, thread, std::memory_order_acquire) ? LCH_DOOR_ENTERED : LCH_DOOR_BUSY;
}

void lch_door_leave(lch_door * door) { owner_of(door).store(0, std::memory_order_release); }

void lch_main_thread(uint64_t ident) { main_thread = ident; }

int lch_is_main_thread(void) { return main_thread.load(std::memory_order_relaxed) == this_thread(); }
