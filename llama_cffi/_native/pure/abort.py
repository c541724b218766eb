"""The flag that llama.cpp looks at once per graph node; see ``helpers/abort.cpp``.

A Python function there would cost more than the model. A function that every process has does as well: ``strlen`` of a
flag byte, ended by a NUL, is 0 or 1. It knows no clock and no signals: a deadline is looked at before and after each
computation, and a signal handler runs after it.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from llama_cffi._native.pure.process import ffi, strlen


class lch_abort:
    """``stop`` is what llama.cpp reads: a byte for :func:`lch_abort_set` or a deadline that has passed, and a NUL."""

    __slots__ = ("deadline_ns", "flag", "interrupted", "late", "stop", "waited_ns")

    def __init__(self) -> None:
        self.stop = ffi.new("char[2]")
        self.flag = self.interrupted = self.deadline_ns = self.waited_ns = 0
        self.late = False


class _Armed(threading.local):
    """What the computation that this thread begins will obey."""

    state: lch_abort | None = None


_armed = _Armed()

lch_abort_check: Any = strlen


def lch_abort_now() -> int:
    return time.monotonic_ns()


def lch_abort_set(state: lch_abort, value: int) -> None:
    state.flag = value
    state.stop[0] = b"\1" if value else b"\0"


def lch_abort_isset(state: lch_abort) -> int:
    return state.flag


def lch_abort_deadline(state: lch_abort, deadline_ns: int) -> None:
    state.deadline_ns = deadline_ns


def lch_abort_arm(state: lch_abort) -> None:
    _armed.state = state
    if is_expired(state):
        state.late = True
        state.stop[0] = b"\1"
    elif state.late:
        state.late = False
        state.stop[0] = b"\0"
        # Another thread may have set the flag between the two.
        if state.flag:
            state.stop[0] = b"\1"


def over_time() -> bool:
    """Return whether the computation that this thread has just ended took longer than it was allowed."""
    state, _armed.state = _armed.state, None
    return state is not None and is_expired(state)


def is_expired(state: lch_abort) -> bool:
    """Return whether the deadline has passed."""
    return 0 < state.deadline_ns <= time.monotonic_ns()
