"""Stopping a computation from outside: another thread, a deadline, Ctrl-C.

llama.cpp asks a C function once per graph node whether to go on. That function reads a flag and a deadline,
and on the main thread it lets Python's signal handlers run every 50 ms, so that Ctrl-C also works in the
middle of a long prefill.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from llama_cffi._native._helpers import ffi, lib

_FOREVER = 1e9  # seconds


class _Interrupt:
    """What a signal handler raised while the main thread was inside llama.cpp; only that thread touches it."""

    exception: BaseException | None = None


def _on_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> int:
    # The traceback's only frame is the empty function below.
    _Interrupt.exception = error.with_traceback(None)
    return 1


@ffi.def_extern(error=1, onerror=_on_error)  # type: ignore[untyped-decorator]
def lch_python_signals() -> int:
    """Run the handlers of pending signals: the interpreter does so when it enters a function or loops."""
    for _ in range(2):
        pass
    return 0


lib.lch_abort_signals(lib.lch_python_signals)
lib.lch_main_thread(threading.main_thread().ident or 0)


class AbortFlag:
    """What tells one Context's computation to stop.

    Pass :attr:`callback` and :attr:`data` to ``llama_set_abort_callback``; the flag must outlive the context.
    """

    __slots__ = ("_state", "callback", "data")

    def __init__(self) -> None:
        self._state = ffi.new("lch_abort *")
        #: ``ggml_abort_callback`` for the C side; cast it to that type of the llama.h binding.
        self.callback: Any = ffi.addressof(lib, "lch_abort_check")
        #: The callback's user data, a ``void *``.
        self.data: Any = ffi.cast("void *", self._state)

    def set(self) -> None:
        """Stop the computation that runs now, or the next one. Any thread may call it."""
        lib.lch_abort_set(self._state, 1)

    def clear(self) -> None:
        """Forget :meth:`set` and a stored exception; the deadline stays."""
        self.take_exception()
        lib.lch_abort_set(self._state, 0)

    @property
    def is_set(self) -> bool:
        """Whether :meth:`set` was called, or a signal handler raised."""
        return bool(lib.lch_abort_isset(self._state))

    @property
    def deadline(self) -> float | None:
        """Moment of :func:`time.monotonic` after which computations stop; None for never."""
        at = self._state.deadline_ns
        return time.monotonic() + (at - lib.lch_abort_now()) / 1e9 if at else None

    @deadline.setter
    def deadline(self, moment: float | None) -> None:
        if moment is None:
            lib.lch_abort_deadline(self._state, 0)
        else:
            # The C clock may count from another moment; 0 means no deadline. 30 years stand for infinity.
            left = min(max(moment - time.monotonic(), -_FOREVER), _FOREVER)
            lib.lch_abort_deadline(self._state, max(lib.lch_abort_now() + int(left * 1e9), 1))

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        at = self._state.deadline_ns
        return bool(at) and lib.lch_abort_now() >= at

    def arm(self) -> None:
        """Call before each computation: on the main thread signals are looked at from 50 ms on."""
        lib.lch_abort_arm(self._state)

    def take_exception(self) -> BaseException | None:
        """What a signal handler raised during the computation, once; the caller raises it."""
        if not self._state.interrupted:
            return None
        self._state.interrupted = 0
        lib.lch_abort_set(self._state, 0)
        error, _Interrupt.exception = _Interrupt.exception, None
        return error


__all__ = ["AbortFlag"]
