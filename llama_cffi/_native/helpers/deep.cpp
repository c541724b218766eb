// Calls that recurse by the size of what they are given, on a stack that is large enough for it.

#include "helpers.hpp"

#if !defined(_WIN32)

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

// The lowest address of this thread's stack; 0 where the system does not say.
uintptr_t lowest_address() {
#if defined(__APPLE__)
    const pthread_t self = pthread_self();
    return reinterpret_cast<uintptr_t>(pthread_get_stackaddr_np(self)) - pthread_get_stacksize_np(self);
#elif defined(__linux__)
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) {
        return 0;
    }
    void * lowest = nullptr;
    size_t size = 0;
    const int status = pthread_attr_getstack(&attributes, &lowest, &size);
    pthread_attr_destroy(&attributes);
    return status == 0 ? reinterpret_cast<uintptr_t>(lowest) : 0;
#else
    return 0;
#endif
}

// A limit that was raised later makes this too careful. A main thread without a limit grows until it meets another
// mapping, and how far away that is nobody says.
constexpr size_t kMost = size_t{8} << 20;

size_t bytes_left() {
    thread_local const uintptr_t lowest = lowest_address();
    char here = 0;
    const uintptr_t top = reinterpret_cast<uintptr_t>(&here);
    if (lowest == 0 || top <= lowest) {
        return 0;
    }
    return top - lowest < kMost ? top - lowest : kMost;
}

struct Call {
    void * fn;
    int result;
    const int64_t * args;
    uint64_t log_thread;
    int64_t value;
    char failure[2048];
};

void * run(void * data) {
    Call & call = *static_cast<Call *>(data);
    lch::log_as(call.log_thread);
    const int64_t * a = call.args;
    call.value = lch_call(call.fn, call.result, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    std::snprintf(call.failure, sizeof call.failure, "%s", lch_failure());
    return nullptr;
}

int64_t no_stack(size_t size, int error) {
    char message[128];
    std::snprintf(message, sizeof message, "no thread with a stack of %zu bytes can be started: %s", size,
                  std::strerror(error));
    lch::remember(message);
    return LCH_FAILED;
}

// Pages of the stack take memory only when the call comes to them, and are gone with it.
int64_t on_own_thread(Call & call, size_t stack) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t size = (stack / page + 2) * page;
    int flags = MAP_PRIVATE | MAP_ANON;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
#if defined(MAP_STACK)
    flags |= MAP_STACK;
#endif
    void * lowest = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (lowest == MAP_FAILED) {
        return no_stack(size, errno);
    }
    mprotect(lowest, page, PROT_NONE);
#if defined(MADV_NOHUGEPAGE)
    madvise(lowest, size, MADV_NOHUGEPAGE);
#endif
    pthread_attr_t attributes;
    pthread_t thread;
    int status = pthread_attr_init(&attributes);
    if (status == 0) {
        status = pthread_attr_setstack(&attributes, lowest, size);
        if (status == 0) {
            // Signals go to the threads of the program.
            sigset_t all, before;
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, &before);
            status = pthread_create(&thread, &attributes, run, &call);
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
        }
        pthread_attr_destroy(&attributes);
    }
    if (status == 0) {
        pthread_join(thread, nullptr);
    }
    munmap(lowest, size);
    if (status != 0) {
        return no_stack(size, status);
    }
    if (call.value == LCH_FAILED) {
        lch::remember(call.failure);
    }
    return call.value;
}

}  // namespace

int64_t lch_call_deep(size_t stack, void * fn, int result, int64_t a0, int64_t a1, int64_t a2, int64_t a3,
                      int64_t a4, int64_t a5, int64_t a6, int64_t a7) {
    if (stack <= bytes_left()) {
        return lch_call(fn, result, a0, a1, a2, a3, a4, a5, a6, a7);
    }
    const int64_t args[] = {a0, a1, a2, a3, a4, a5, a6, a7};
    lch::log_call_begins();
    Call call = {fn, result, args, lch::log_thread(), 0, ""};
    return on_own_thread(call, stack);
}

#else

// The C++ library of Windows bounds its own recursion and throws.
int64_t lch_call_deep(size_t, void * fn, int result, int64_t a0, int64_t a1, int64_t a2, int64_t a3,
                      int64_t a4, int64_t a5, int64_t a6, int64_t a7) {
    return lch_call(fn, result, a0, a1, a2, a3, a4, a5, a6, a7);
}

#endif
