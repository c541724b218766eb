"""The end of the interpreter: native work stops, then what it used is freed.

The interpreter runs finalizers while daemon threads go on. The first thing that ends here is the work of those threads;
only when all of them are outside of every native object are the objects freed. A thread that comes back afterwards
ends silently, as Python itself ends daemon threads a moment later.
"""

from __future__ import annotations

import threading
from typing import NoReturn

from llama_cffi.errors import ClosedError

STOP_SECONDS = 3.0
"""How long an exit waits for running work to stop. What has not stopped by then is not freed."""


class _State:
    begun = False


_state = _State()


def begin() -> None:
    """Refuse all native work from now on."""
    _state.begun = True


def begun() -> bool:
    """Whether the interpreter is ending: what runs is to stop, and nothing is to begin."""
    return _state.begun


def end_thread() -> None:
    """End the calling thread once the interpreter is ending, unless it is the main thread."""
    if _state.begun and threading.get_ident() != threading.main_thread().ident:
        raise SystemExit  # the one exception that threading does not print


def refuse() -> NoReturn:
    """End the calling thread, or raise :class:`ClosedError` in the main thread, whose exit handlers still run."""
    end_thread()
    raise ClosedError("the interpreter is ending: models and contexts are closed")


__all__ = ["STOP_SECONDS", "begin", "begun", "end_thread", "refuse"]
