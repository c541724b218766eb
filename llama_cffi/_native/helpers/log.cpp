// llama.cpp's log lines, kept in a ring that Python reads at its leisure.

#include "helpers.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>

#if !defined(_WIN32)
#  include <pthread.h>
#endif

namespace {

constexpr uint64_t kLines = 1024;
constexpr int kDebug = 1, kInfo = 2, kError = 4, kCont = 5;

// After these llama.cpp goes on and computes with buffers that are not there, which ends the process.
const char * const kFatal[] = {
    "failed to allocate compute graph for K-shift",
    "failed to reserve graph after the memory update",
};

lch_line ring[kLines];
std::mutex ring_mutex;
std::atomic<uint64_t> ring_end{0};
std::atomic<int> keep_level{kInfo};

std::atomic<uint64_t> threads_seen{0};
thread_local uint64_t this_thread = 0;
thread_local uint64_t call_begin = 0;

// The line that this thread has begun and not yet ended with a newline.
struct Pending {
    int level = kInfo;
    bool kept = true;
    size_t length = 0;
    char text[sizeof(lch_line::text)];
};
thread_local Pending pending;

uint64_t thread_number() {
    if (this_thread == 0) {
        this_thread = ++threads_seen;
    }
    return this_thread;
}

void flush() {
    if (pending.length == 0) {
        return;
    }
    std::lock_guard<std::mutex> lock(ring_mutex);
    const uint64_t seq = ring_end.load(std::memory_order_relaxed);
    lch_line & line = ring[seq % kLines];
    line.seq = seq;
    line.thread = thread_number();
    line.level = pending.level;
    std::memcpy(line.text, pending.text, pending.length);
    line.text[pending.length] = '\0';
    pending.length = 0;
    ring_end.store(seq + 1, std::memory_order_release);
}

// Ends the guarded call in which one of them is logged, by an exception that unwinds llama.cpp.
void stop_if_fatal(int level, const char * text) {
    if (level != kError || !lch::is_guarded()) {
        return;
    }
    for (const char * fatal : kFatal) {
        if (std::strstr(text, fatal)) {
            throw std::runtime_error(fatal);
        }
    }
}

// A line longer than a slot goes on in the next one.
void append(const char * text, size_t length) {
    while (length > 0) {
        const size_t room = sizeof pending.text - 1 - pending.length;
        const size_t n = length < room ? length : room;
        std::memcpy(pending.text + pending.length, text, n);
        pending.length += n;
        text += n;
        length -= n;
        if (pending.length == sizeof pending.text - 1) {
            flush();
        }
    }
}

#if !defined(_WIN32)
// A fork in the middle of a log line would leave the child with a locked ring.
const int at_fork = pthread_atfork([] { ring_mutex.lock(); }, [] { ring_mutex.unlock(); }, [] { ring_mutex.unlock(); });
#endif

}  // namespace

namespace lch {

void log_call_begins() { call_begin = ring_end.load(std::memory_order_relaxed); }

uint64_t log_thread() { return thread_number(); }

void log_as(uint64_t thread) { this_thread = thread; }

void log_dump_tail(int lines) {
    const uint64_t end = ring_end.load(std::memory_order_acquire);
    const uint64_t count = static_cast<uint64_t>(lines) < end ? static_cast<uint64_t>(lines) : end;
    for (uint64_t seq = end - count; seq < end; seq++) {
        std::fprintf(stderr, "  %s\n", ring[seq % kLines].text);
    }
}

}  // namespace lch

void lch_log(int level, const char * text, void *) {
    const char * const begin = text;
    if (level != kCont) {
        flush();
        pending.level = level;
        pending.kept = level >= keep_level.load(std::memory_order_relaxed);
    }
    if (!pending.kept) {
        return;
    }
    while (const char * newline = std::strchr(text, '\n')) {
        append(text, static_cast<size_t>(newline - text));
        flush();
        text = newline + 1;
    }
    append(text, std::strlen(text));
    stop_if_fatal(level, begin);
}

void lch_log_keep(int min_level) { keep_level.store(min_level < kDebug ? kDebug : min_level); }

uint64_t lch_log_end(void) {
    flush();
    return ring_end.load(std::memory_order_acquire);
}

uint64_t lch_log_call(void) { return call_begin; }

// Copies the first line at or after *seq (of this thread only, if asked) and moves *seq behind it; 0 at the end.
int lch_log_read(uint64_t * seq, int own_thread, lch_line * out) {
    flush();
    std::lock_guard<std::mutex> lock(ring_mutex);
    const uint64_t end = ring_end.load(std::memory_order_relaxed);
    uint64_t at = *seq;
    if (end > kLines && at < end - kLines) {
        at = end - kLines;
    }
    for (; at < end; at++) {
        const lch_line & line = ring[at % kLines];
        if (!own_thread || line.thread == this_thread) {
            *out = line;
            *seq = at + 1;
            return 1;
        }
    }
    *seq = end;
    return 0;
}
