"""Whose turn it is to compute with threads that several contexts share."""

from __future__ import annotations

from typing import Any, NoReturn

from llama_cffi._native import bound
from llama_cffi._native.helpers import ffi, lib
from llama_cffi.errors import BusyError

STOPPED = int(lib.LCH_TURN_STOPPED)
"""An abort flag, a deadline or a signal handler said so while the thread was waiting for its turn."""
NESTED = int(lib.LCH_TURN_NESTED)
"""The thread has the turn already: a signal handler or a callback runs in the middle of a computation."""


class Turn:
    """One computation at a time, first come, first served; see ``helpers/turn.cpp``.

    Taken and given back by the native calls that compute, so that no signal handler runs in between. It is never freed:
    a forked child process could not, while a thread of its parent waits.
    """

    __slots__ = ("native",)

    def __init__(self) -> None:
        #: The ``lch_turn``.
        self.native: Any = lib.lch_turn_new()

    @property
    def n_waiting(self) -> int:
        """How many threads wait for it."""
        return int(lib.lch_turn_waiting(self.native))

    def between(self, function: int, argument: Any) -> None:
        """Call a native function of one pointer, by its address, unless it is somebody's turn; nobody's begins then."""
        pointer = ffi.cast("void *", int(bound.ffi.cast("uintptr_t", argument)))
        lib.lch_turn_between(self.native, ffi.cast("void *", function), pointer)


def refuse_nested() -> NoReturn:
    """Raise the error for :data:`NESTED`."""
    raise BusyError("this thread is in the middle of a computation, whose threads this context shares")


__all__ = ["NESTED", "STOPPED", "Turn", "refuse_nested"]
