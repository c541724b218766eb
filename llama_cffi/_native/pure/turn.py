"""One computation at a time on threads that several contexts share; see ``helpers/turn.cpp``."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from llama_cffi._native.pure import abort, guard
from llama_cffi._native.pure.process import ffi

LCH_TURN_TAKEN, LCH_TURN_STOPPED, LCH_TURN_NESTED = 0, -24, -25

_LOOK_SECONDS = 0.002
"""How often a waiting thread looks whether it has the turn, or is to stop."""

_get_ident = threading.get_ident


class lch_turn:
    """``holder`` has the thread whose turn it is. Taking and giving are one call each, which no handler interrupts."""

    __slots__ = ("holder", "line")

    def __init__(self) -> None:
        self.holder: dict[None, int] = {}
        self.line: deque[tuple[int, object]] = deque()


def lch_turn_new() -> lch_turn:
    return lch_turn()


def lch_turn_free(turn: lch_turn) -> None:
    pass


def lch_turn_take(turn: lch_turn, state: abort.lch_abort) -> int:
    me = _get_ident()
    if turn.holder.get(None) == me:
        return LCH_TURN_NESTED
    ticket = (me, object())
    if any(thread == me for thread, _ in tuple(turn.line)):
        # A signal handler of a thread that waits comes before what it interrupted.
        turn.line.appendleft(ticket)
    else:
        turn.line.append(ticket)
    try:
        while turn.line[0] is not ticket or turn.holder.setdefault(None, me) != me:
            if abort.lch_abort_isset(state) or abort.is_expired(state):
                return LCH_TURN_STOPPED
            time.sleep(_LOOK_SECONDS)
        return LCH_TURN_TAKEN
    finally:
        turn.line.remove(ticket)


def lch_turn_give(turn: lch_turn) -> None:
    turn.holder.clear()


def lch_turn_waiting(turn: lch_turn) -> int:
    return len(turn.line)


def lch_turn_between(turn: lch_turn, fn: Any, argument: Any) -> None:
    me = _get_ident()
    if turn.line or turn.holder.setdefault(None, me) != me:
        return
    try:
        ffi.cast("void (*)(void *)", fn)(argument)
    finally:
        lch_turn_give(turn)


def lch_compute(turn: lch_turn | None, state: abort.lch_abort, fn: Any, ctx: Any, batch: Any, size: int) -> int:
    if not turn:
        return guard.lch_batch(fn, ctx, batch, size)
    # A signal handler may raise between any two lines.
    nested = turn.holder.get(None) == _get_ident()
    try:
        entry = lch_turn_take(turn, state)
        return guard.lch_batch(fn, ctx, batch, size) if entry == LCH_TURN_TAKEN else entry
    finally:
        if not nested and turn.holder.get(None) == _get_ident():
            lch_turn_give(turn)
