"""Whose turn it is to compute on CPUs that contexts and encodings share."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NoReturn

from llama_cffi._native import atomic, helpers
from llama_cffi._native.handle import Handle
from llama_cffi._native.helpers import ffi, lib
from llama_cffi.errors import BusyError

STOPPED = int(lib.LCH_TURN_STOPPED)
"""An abort flag, a deadline or a signal handler said so while the thread was waiting for its turn."""
NESTED = int(lib.LCH_TURN_NESTED)
"""The thread has the turn already: a signal handler or a callback runs in the middle of a computation."""


class Turn(Handle):
    """One computation at a time, first come, first served; see ``helpers/turn.cpp``.

    Taken and given back by the native calls that compute, so that no signal handler runs in between.
    """

    __slots__ = ("native", "pid")

    def __init__(self) -> None:
        super().__init__("Turn", partial(atomic.free, lib.lch_turn_free))
        atomic.keep(self.cell, lib.lch_turn_new)
        if self.cell[0] == ffi.NULL:
            self.cell.clear()
            raise MemoryError("no memory for a turn")
        #: The ``lch_turn``.
        self.native: Any = self.cell[0]
        #: The process that it belongs to.
        self.pid = os.getpid()
        self.open(self.native)

    @property
    def n_waiting(self) -> int:
        """How many threads wait for it."""
        return int(lib.lch_turn_waiting(self.native))

    def add(self, pool: Handle, pause: int) -> None:
        """Let the threads of a pool, which computes in this turn, sleep while an encoding has it.

        ``pause`` is the address of ``ggml_threadpool_pause``. :func:`forget_pool` comes before the pool is freed.
        """
        lib.lch_turn_add(self.native, ffi.cast("void *", pause), helpers.pool(pool))


def forget_pool(turn: Any, pool: Any) -> None:
    """Undo :meth:`Turn.add` for a ``ggml_threadpool_t`` and a ``lch_turn``. Harmless when it was not there."""
    lib.lch_turn_remove(turn, ffi.cast("void *", pool))


def refuse_nested() -> NoReturn:
    """Raise the error for :data:`NESTED`."""
    raise BusyError("this thread is in the middle of a computation, whose CPUs this one shares")


__all__ = ["NESTED", "STOPPED", "Turn", "forget_pool", "refuse_nested"]
