// Turns: one computation at a time on CPUs that several contexts and encodings share, first come, first served.

#include "helpers.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace {

// How often a waiting thread looks whether it is to stop.
constexpr std::chrono::milliseconds kLook{5};

struct Waiting {
    uint64_t ticket;
    std::thread::id thread;
};

struct Pool {
    void (*pause)(void *);
    void * pool;
};

}  // namespace

struct lch_turn {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Waiting> line;
    uint64_t n_tickets = 0;
    bool taken = false;
    std::thread::id holder;
    std::vector<Pool> pools;
};

lch_turn * lch_turn_new(void) { return new (std::nothrow) lch_turn; }

void lch_turn_free(lch_turn * turn) { delete turn; }

int lch_turn_take(lch_turn * turn, lch_abort * abort) {
    const std::thread::id me = std::this_thread::get_id();
    std::unique_lock<std::mutex> lock(turn->mutex);
    if (turn->taken && turn->holder == me) {
        return LCH_TURN_NESTED;
    }
    if (turn->taken || !turn->line.empty()) {
        const int64_t began = lch::clock_ns();
        const uint64_t ticket = ++turn->n_tickets;
        // A signal handler of a thread that waits comes before what it interrupted.
        const auto interrupted = std::find_if(turn->line.begin(), turn->line.end(),
                                              [&](const Waiting & one) { return one.thread == me; });
        turn->line.insert(interrupted, {ticket, me});
        while (turn->taken || turn->line.front().ticket != ticket) {
            turn->changed.wait_for(lock, kLook);
            lock.unlock();
            const bool stop = lch_abort_check(abort);
            lock.lock();
            if (stop) {
                turn->line.erase(std::find_if(turn->line.begin(), turn->line.end(),
                                              [&](const Waiting & one) { return one.ticket == ticket; }));
                turn->changed.notify_all();
                return LCH_TURN_STOPPED;
            }
        }
        turn->line.pop_front();
        abort->waited_ns += lch::clock_ns() - began;
    }
    turn->taken = true;
    turn->holder = me;
    return LCH_TURN_TAKEN;
}

void lch_turn_give(lch_turn * turn) {
    {
        std::lock_guard<std::mutex> lock(turn->mutex);
        turn->taken = false;
        turn->holder = std::thread::id();
    }
    turn->changed.notify_all();
}

int lch_turn_waiting(lch_turn * turn) {
    std::lock_guard<std::mutex> lock(turn->mutex);
    return static_cast<int>(turn->line.size());
}

void lch_turn_add(lch_turn * turn, void * pause, void * pool) {
    const std::lock_guard<std::mutex> lock(turn->mutex);
    turn->pools.push_back({reinterpret_cast<void (*)(void *)>(pause), pool});
}

void lch_turn_remove(lch_turn * turn, void * pool) {
    const std::lock_guard<std::mutex> lock(turn->mutex);
    turn->pools.erase(std::remove_if(turn->pools.begin(), turn->pools.end(),
                                     [&](const Pool & one) { return one.pool == pool; }),
                      turn->pools.end());
}

void lch_turn_pause(lch_turn * turn) {
    // A pool that computes must not be paused: its threads would not take part, and the one that waits for them hangs.
    const std::lock_guard<std::mutex> lock(turn->mutex);
    for (const Pool & one : turn->pools) {
        one.pause(one.pool);
    }
}

int64_t lch_compute(lch_turn * turn, lch_abort * abort, void * fn, void * ctx, void * batch, size_t size) {
    const lch::Turn mine(turn, abort);
    return mine.entry == LCH_TURN_TAKEN ? lch_batch(fn, ctx, batch, size) : mine.entry;
}
