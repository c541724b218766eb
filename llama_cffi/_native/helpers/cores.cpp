// An encoding and the decodes of a context take turns where they need the same cores. ggml's threads wait for each other
// busily, several times in each layer: two graphs at once on too few cores take many times as long as one after the
// other.

#include "helpers.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace {

using Clock = std::chrono::steady_clock;

// A pause costs a start of the threads, some 0.1 ms; a layer of an encoder has about 30 nodes. Where decodes wait for
// the rest of a piece, pieces become shorter.
constexpr int64_t kShort = 4 * 1000 * 1000, kLong = 12 * 1000 * 1000;
constexpr int kMostNodes = 8;
// An owner that an exception kept from giving its turn back is waited for no longer than this.
constexpr auto kPatience = std::chrono::seconds(10);
constexpr auto kGlance = std::chrono::milliseconds(20);

// Never destroyed: at the end of the process other threads may still wait.
std::mutex & lock = *new std::mutex;
std::condition_variable & changed = *new std::condition_variable;

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

// Let the decodes go first that wait now, and those that run. A decode that comes later waits for the next pause.
void let_decodes(std::unique_lock<std::mutex> & held, lch_cores * cores) {
    cores->encoding = 0;
    cores->pausing = 1;
    cores->n_granted = cores->n_waiting;
    changed.notify_all();
    const auto until = Clock::now() + kPatience;
    while (cores->n_granted > 0 || cores->n_decoding > 0) {
        if (changed.wait_for(held, kGlance) == std::cv_status::timeout) {
            held.unlock();
            const bool stop = lch_abort_check(cores->abort);
            held.lock();
            if (stop || Clock::now() >= until) {
                cores->n_granted = cores->n_decoding = 0;
            }
        }
    }
    cores->pausing = 0;
    cores->encoding = 1;
}

}  // namespace

// A scheduler asks for each node whether the computation is to pause behind it, and after a pause whether to go on.
bool lch_eval_check(void *, bool ask, void * data) {
    lch_cores * cores = static_cast<lch_cores *>(data);
    if (ask) {
        return ++cores->n_asked >= cores->n_nodes;
    }
    const int64_t took = now() - cores->began_ns;
    bool waited = false;
    if (cores->shared) {
        std::unique_lock<std::mutex> held(lock);
        if (cores->n_waiting > 0) {
            waited = true;
            let_decodes(held, cores);
        }
    }
    if (waited && took > kLong && cores->n_nodes > 1) {
        cores->n_nodes /= 2;
    } else if ((!waited || took < kShort) && cores->n_nodes < kMostNodes) {
        cores->n_nodes *= 2;
    }
    cores->n_asked = 0;
    cores->began_ns = now();
    return !lch_abort_check(cores->abort);
}

void lch_cores_begin(lch_cores * cores) {
    cores->n_nodes = kMostNodes;
    cores->n_asked = 0;
    if (cores->shared) {
        std::unique_lock<std::mutex> held(lock);
        let_decodes(held, cores);
    }
    cores->began_ns = now();
}

void lch_cores_end(lch_cores * cores) {
    if (cores->shared) {
        const std::lock_guard<std::mutex> held(lock);
        cores->encoding = cores->pausing = cores->n_granted = 0;
        changed.notify_all();
    }
}

void lch_cores_take(lch_cores * cores) {
    std::unique_lock<std::mutex> held(lock);
    cores->n_waiting++;
    const auto free = [cores] { return !cores->encoding && (!cores->pausing || cores->n_granted > 0); };
    if (!changed.wait_for(held, kPatience, free)) {
        cores->encoding = 0;
    }
    cores->n_waiting--;
    if (cores->n_granted > 0) {
        cores->n_granted--;
    }
    cores->n_decoding++;
}

void lch_cores_give(lch_cores * cores) {
    const std::lock_guard<std::mutex> held(lock);
    if (cores->n_decoding > 0) {
        cores->n_decoding--;
    }
    changed.notify_all();
}
