"""One computation at a time on CPUs that contexts and encodings share; see ``helpers/turn.cpp``."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from llama_cffi._native.pure import abort, guard
from llama_cffi._native.pure.process import ffi

if TYPE_CHECKING:
    from llama_cffi._native.handle import Handle

LCH_TURN_TAKEN, LCH_TURN_STOPPED, LCH_TURN_NESTED = 0, -24, -25

_LOOK_SECONDS = 0.002
"""How often a waiting thread looks whether it has the turn, or is to stop."""

_get_ident = threading.get_ident


class lch_turn:
    """``holder`` has the thread whose turn it is. Taking and giving are one call each, which no handler interrupts.

    ``encodings`` has an entry for each encoding that runs beside: see :mod:`.encoding`.
    """

    __slots__ = ("encodings", "holder", "line", "pools")

    def __init__(self) -> None:
        self.holder: dict[None, int] = {}
        self.line: deque[tuple[int, object]] = deque()
        self.pools: list[tuple[Any, weakref.ref[Handle]]] = []
        self.encodings: list[None] = []


def lch_turn_new() -> lch_turn:
    return lch_turn()


def lch_turn_free(turn: lch_turn) -> None:
    pass


def lch_turn_take(turn: lch_turn, state: abort.lch_abort) -> int:
    me = _get_ident()
    if turn.holder.get(None) == me:
        return LCH_TURN_NESTED
    began = time.monotonic_ns()
    ticket = (me, object())
    # A signal handler may raise after any call: what an interrupted block has done is undone with no call before it.
    try:
        if any(thread == me for thread, _ in tuple(turn.line)):
            # A signal handler of a thread that waits comes before what it interrupted.
            turn.line.appendleft(ticket)
        else:
            turn.line.append(ticket)
        while turn.line[0] is not ticket or turn.holder.setdefault(None, me) != me:
            if abort.lch_abort_isset(state) or abort.is_expired(state):
                return LCH_TURN_STOPPED
            time.sleep(_LOOK_SECONDS)
        return LCH_TURN_TAKEN
    finally:
        if ticket in turn.line:
            turn.line.remove(ticket)
        state.waited_ns += time.monotonic_ns() - began


def lch_turn_give(turn: lch_turn) -> None:
    turn.holder.clear()


def lch_turn_waiting(turn: lch_turn) -> int:
    return len(turn.line)


def lch_turn_add(turn: lch_turn, pause: Any, pool: Handle) -> None:
    known = [one for one in turn.pools if one[1]() is not None]
    turn.pools = [*known, (ffi.cast("void (*)(void *)", pause), weakref.ref(pool))]


def lch_turn_remove(turn: lch_turn, pool: Any) -> None:
    """Do nothing: a pool is kept while it is paused, and not found when it is gone."""


def lch_turn_pause(turn: lch_turn) -> None:
    for pause, reference in tuple(turn.pools):
        pool = reference()
        if pool is not None:
            pause(ffi.cast("void *", int(ffi.cast("uintptr_t", pool.ptr))))


def pause_between(turn: lch_turn) -> None:
    """Have the pools sleep unless it is the turn of a thread, or one waits for it: that one will do it."""
    if turn.line or turn.holder:
        return
    try:
        me = _get_ident()
        if turn.holder.setdefault(None, me) == me:
            lch_turn_pause(turn)
    finally:
        try:
            if turn.holder.get(None) == _get_ident():
                turn.holder.clear()
        except BaseException:  # perhaps before it was given
            if turn.holder.get(None) == _get_ident():
                turn.holder.clear()
            raise


def lch_compute(turn: lch_turn | None, state: abort.lch_abort, fn: Any, ctx: Any, batch: Any, size: int) -> int:
    if not turn:
        return guard.lch_batch(fn, ctx, batch, size)
    nested = turn.holder.get(None) == _get_ident()
    try:
        entry = lch_turn_take(turn, state)
        if entry != LCH_TURN_TAKEN:
            return entry
        result = guard.lch_batch(fn, ctx, batch, size)
        if turn.encodings:
            lch_turn_pause(turn)
        return result
    finally:
        # In a block of its own: no call comes before that, so none in which a handler raises outside of it.
        try:
            if not nested and turn.holder.get(None) == _get_ident():
                turn.holder.clear()
        except BaseException:  # perhaps before it was given
            if not nested and turn.holder.get(None) == _get_ident():
                turn.holder.clear()
            raise
