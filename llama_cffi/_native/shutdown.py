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


_ending = threading.Event()

begin = _ending.set
"""Refuse all native work from now on."""

begun = _ending.is_set
"""Whether the interpreter is ending: what runs is to stop, and nothing is to begin. A method of an object, so that it
works when the interpreter has emptied the modules."""


def end_thread() -> None:
    """End the calling thread once the interpreter is ending, unless it is the main thread."""
    if _ending.is_set() and threading.get_ident() != threading.main_thread().ident:
        raise SystemExit  # the one exception that threading does not print


def refuse() -> NoReturn:
    """End the calling thread, or raise :class:`ClosedError` in the main thread, whose exit handlers still run."""
    end_thread()
    raise ClosedError("the interpreter is ending: models and contexts are closed")


__all__ = ["STOP_SECONDS", "begin", "begun", "end_thread", "refuse"]
