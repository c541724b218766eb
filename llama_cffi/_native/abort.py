"""Stopping a computation from outside: another thread, a deadline, Ctrl-C.

llama.cpp asks a C function once per graph node whether to go on. That function reads a flag and a deadline,
and on the main thread it lets Python's signal handlers run every 50 ms, so that Ctrl-C also works in the
middle of a long prefill.

Without the compiled helpers the flag alone stops a computation that runs: a deadline is looked at before and after
each, and a signal handler, Ctrl-C's too, runs after it.
"""

from __future__ import annotations

import time
from typing import Any

from llama_cffi._native import helpers
from llama_cffi._native.helpers import lib

_FOREVER = 1e9  # seconds


class AbortFlag:
    """The flag that stops the computation of one Context.

    Pass :attr:`callback` and :attr:`data` to ``llama_set_abort_callback``; the flag must outlive the context.
    """

    __slots__ = ("callback", "data", "native")

    def __init__(self) -> None:
        #: The ``lch_abort``, which other helpers may look at.
        self.native: Any = helpers.new("lch_abort")
        #: ``ggml_abort_callback`` for the C side; cast it to that type of the llama.h binding.
        self.callback: Any = helpers.address("lch_abort_check")
        #: The callback's user data, a ``void *``.
        self.data: Any = helpers.pointer(self.native)

    def set(self) -> None:
        """Stop the running computation, or the next one. Any thread may call it."""
        lib.lch_abort_set(self.native, 1)

    def clear(self) -> None:
        """Forget :meth:`set` and a stored exception; the deadline stays."""
        self.take_exception()
        lib.lch_abort_set(self.native, 0)

    @property
    def is_set(self) -> bool:
        """Whether :meth:`set` was called, or a signal handler raised."""
        return bool(lib.lch_abort_isset(self.native))

    @property
    def deadline(self) -> float | None:
        """Moment of :func:`time.monotonic` after which computations stop; None for never."""
        at = self.native.deadline_ns
        return time.monotonic() + (at - lib.lch_abort_now()) / 1e9 if at else None

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        if moment is None:
            lib.lch_abort_deadline(self.native, 0)
        else:
            # The C clock may count from another moment; 0 means no deadline. 30 years stand for infinity.
            left = min(max(moment - time.monotonic(), -_FOREVER), _FOREVER)
            lib.lch_abort_deadline(self.native, max(lib.lch_abort_now() + int(left * 1e9), 1))

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        at = self.native.deadline_ns
        return bool(at) and lib.lch_abort_now() >= at

    @property
    def seconds_waited(self) -> float:
        """What computations that it could have stopped have waited for their turns, in all."""
        return float(self.native.waited_ns) / 1e9

    def arm(self) -> None:
        """Call before each computation: on the main thread signals are looked at from 50 ms on."""
        lib.lch_abort_arm(self.native)

    def take_exception(self) -> BaseException | None:
        """Return what a signal handler raised during the computation, once; the caller raises it."""
        if not self.native.interrupted:
            return None
        self.native.interrupted = 0
        lib.lch_abort_set(self.native, 0)
        return helpers.take_interrupt()


__all__ = ["AbortFlag"]
