// A decode step of one sequence in one call: after a decode the weights have pushed Python out of the caches, and
// every frame that need not run then saves microseconds.

#include "helpers.hpp"

namespace {

int64_t decode_and_select(lch_step * step, lch_selector * selector) {
    return lch::guarded([&]() -> int64_t {
        {
            const lch::Turn turn(step->turn, step->abort);
            if (turn.entry != LCH_TURN_TAKEN) {
                return turn.entry;
            }
            step->status = lch::as<int32_t(void *, lch::BatchStruct)>(step->decode)(
                step->ctx, lch::blob_of<lch::BatchStruct>(step->batch, step->batch_size));
        }
        if (step->status != 0) {
            return LCH_STEP_STATUS;
        }
        const float * row = lch::as<const float *(void *, int32_t)>(step->logits)(step->ctx, 0);
        return row ? lch_select(selector, row, step->n_vocab) : LCH_STEP_NO_ROW;
    });
}

}  // namespace

int64_t lch_step_run(lch_step * step, lch_selector * selector, int32_t token, int32_t pos, int32_t seq_id) {
    lch_door * door = step->door;
    const int entry = lch_door_enter(door);
    if (entry < 0) {
        return entry;
    }
    int64_t result = LCH_STEP_SHUT;
    if (!door->shut) {
        *step->token = token;
        *step->pos = pos;
        *step->seq_id = seq_id;
        lch_abort_deadline(step->abort, 0);
        lch_abort_arm(step->abort);
        door->n_computed++;
        door->computing = 1;
        result = decode_and_select(step, selector);
        door->computing = 0;
    }
    if (entry == LCH_DOOR_ENTERED) {
        lch_door_leave(door);
    }
    return result;
}
