// libmtmd computes with threads of its own, in the turns of the contexts on the same CPUs. ggml's threads wait for each
// other busily, several times in each layer: with two graphs at once on too few CPUs, threads that wait would keep those
// from running that they wait for. libmtmd cannot compute with a context's pool, but it can be paused; there it gives
// its turns to what waits.

#include "helpers.hpp"

namespace {

// Nanoseconds of a piece. Each costs a start of the threads; a layer of an encoder has about 30 nodes. Where decodes wait
// for the rest of a piece, pieces become shorter.
constexpr int64_t kShort = 4 * 1000 * 1000, kLong = 12 * 1000 * 1000;
constexpr int kMostNodes = 8;

void give(lch_encoding * encoding) {
    while (encoding->n_taken > 0) {
        lch_turn_give(encoding->turns[--encoding->n_taken]);
    }
}

// All encodings take turns in one order: none has a turn that another one waits for while it has the first one's.
int take(lch_encoding * encoding) {
    while (encoding->n_taken < encoding->n_turns) {
        lch_turn * turn = encoding->turns[encoding->n_taken];
        const int entry = lch_turn_take(turn, encoding->abort);
        if (entry != LCH_TURN_TAKEN) {
            give(encoding);
            return entry;
        }
        encoding->n_taken++;
        // Threads of the last decode would wait busily for the next one, longer than a piece takes.
        lch_turn_pause(turn);
    }
    encoding->n_asked = 0;
    encoding->began_ns = lch::clock_ns();
    return LCH_TURN_TAKEN;
}

bool is_awaited(const lch_encoding * encoding) {
    for (int i = 0; i < encoding->n_turns; i++) {
        if (lch_turn_waiting(encoding->turns[i]) > 0) {
            return true;
        }
    }
    return false;
}

// Has the turns of an encoding given back in the end.
struct Turns {
    lch_encoding * encoding;
    ~Turns() {
        give(encoding);
        encoding->n_turns = 0;
    }
};

}  // namespace

// A scheduler asks for each node whether the computation is to pause behind it, and after a pause whether to go on.
bool lch_eval_check(void *, bool ask, void * data) {
    lch_encoding * encoding = static_cast<lch_encoding *>(data);
    if (ask) {
        return ++encoding->n_asked >= encoding->n_nodes;
    }
    const int64_t took = lch::clock_ns() - encoding->began_ns;
    const bool awaited = is_awaited(encoding);
    give(encoding);
    // Without turns: a signal handler may compute. What is left of a computation that stops here has its own threads.
    if (lch_abort_check(encoding->abort)) {
        return false;
    }
    if (awaited && took > kLong && encoding->n_nodes > 1) {
        encoding->n_nodes /= 2;
    } else if ((!awaited || took < kShort) && encoding->n_nodes < kMostNodes) {
        encoding->n_nodes *= 2;
    }
    return take(encoding) == LCH_TURN_TAKEN;
}

int64_t lch_encode(lch_encoding * encoding, size_t stack, void * fn, int result, int64_t a0, int64_t a1, int64_t a2,
                   int64_t a3, int64_t a4, int64_t a5, int64_t a6, int64_t a7) {
    const Turns turns{encoding};
    encoding->n_nodes = kMostNodes;
    encoding->entry = take(encoding);
    if (encoding->entry != LCH_TURN_TAKEN) {
        return encoding->entry;
    }
    return stack ? lch_call_deep(stack, fn, result, a0, a1, a2, a3, a4, a5, a6, a7)
                 : lch_call(fn, result, a0, a1, a2, a3, a4, a5, a6, a7);
}
