// A decode step of one sequence in one call: what follows a decode finds Python's memory pushed out of the caches
// by the weights, and every frame that need not run there saves a microsecond or more.

#include "helpers.hpp"

int64_t lch_step_run(lch_step * step, lch_selector * selector, int32_t token, int32_t pos, int32_t seq_id,
                     int poll_signals) {
    *step->token = token;
    *step->pos = pos;
    *step->seq_id = seq_id;
    step->status = 0;
    lch_abort_arm(step->abort, poll_signals);
    return lch::guarded([&]() -> int64_t {
        step->status = lch::as<int32_t(void *, lch::BatchStruct)>(step->decode)(
            step->ctx, lch::blob_of<lch::BatchStruct>(step->batch, step->batch_size));
        if (step->status != 0) {
            return LCH_STEP_STATUS;
        }
        const float * row = lch::as<const float *(void *, int32_t)>(step->logits)(step->ctx, 0);
        return row ? lch_select(selector, row, step->n_vocab) : LCH_STEP_NO_ROW;
    });
}
