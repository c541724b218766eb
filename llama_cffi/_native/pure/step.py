"""A decode step of one sequence; see ``helpers/step.cpp``."""

from __future__ import annotations

from typing import Any

from llama_cffi._native.pure import abort, door, select, turn

LCH_STEP_STATUS, LCH_STEP_NO_ROW, LCH_STEP_SHUT = -16, -17, -18


class lch_step:
    """As in ``helpers.h``."""

    decode: Any
    logits: Any
    ctx: Any
    batch: Any
    batch_size: int
    token: Any
    pos: Any
    seq_id: Any
    abort: abort.lch_abort
    door: door.lch_door
    turn: turn.lch_turn
    n_vocab: int
    status: int = 0


def lch_step_run(step: lch_step, selector: select.lch_selector, token: int, pos: int, seq_id: int) -> int:
    mine = step.door
    # A signal handler may raise between any two lines, and right after llama_decode it often does.
    nested = door.is_inside(mine)
    try:
        if (entry := door.lch_door_enter(mine)) < 0:
            return entry
        return LCH_STEP_SHUT if mine.shut else _compute(step, selector, token, pos, seq_id)
    finally:
        # In a block of its own: no call comes before that, so none in which a handler raises outside of it.
        try:
            if not nested and door.is_inside(mine):
                mine.computing = 0
                door.lch_door_leave(mine)
        except BaseException:  # perhaps before it was left
            if not nested and door.is_inside(mine):
                mine.computing = 0
                door.lch_door_leave(mine)
            raise


def _compute(step: lch_step, selector: select.lch_selector, token: int, pos: int, seq_id: int) -> int:
    step.token[0], step.pos[0], step.seq_id[0] = token, pos, seq_id
    abort.lch_abort_deadline(step.abort, 0)
    abort.lch_abort_arm(step.abort)
    step.door.n_computed += 1
    step.door.computing = 1
    try:
        status = turn.lch_compute(step.turn, step.abort, step.decode, step.ctx, step.batch, step.batch_size)
        if status in (turn.LCH_TURN_STOPPED, turn.LCH_TURN_NESTED):
            return status
        step.status = status
        if status != 0:
            return LCH_STEP_STATUS
        row = step.logits(step.ctx, 0)
        return select.lch_select(selector, row, step.n_vocab) if row else LCH_STEP_NO_ROW
    finally:
        step.door.computing = 0
