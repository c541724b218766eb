// Turns: one computation at a time on compute threads that several contexts share, first come, first served.

#include "helpers.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>

namespace {

// How often a waiting thread looks whether it is to stop.
constexpr std::chrono::milliseconds kLook{5};

struct Waiting {
    uint64_t ticket;
    std::thread::id thread;
};

}  // namespace

struct lch_turn {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Waiting> line;
    uint64_t n_tickets = 0;
    bool taken = false;
    std::thread::id holder;
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

void lch_turn_between(lch_turn * turn, void * fn, void * argument) {
    const std::lock_guard<std::mutex> lock(turn->mutex);
    if (!turn->taken) {
        reinterpret_cast<void (*)(void *)>(fn)(argument);
    }
}

int64_t lch_compute(lch_turn * turn, lch_abort * abort, void * fn, void * ctx, void * batch, size_t size) {
    const lch::Turn mine(turn, abort);
    return mine.entry == LCH_TURN_TAKEN ? lch_batch(fn, ctx, batch, size) : mine.entry;
}
