"""Python functions that llama.cpp calls, one per C signature.

An exception must not cross C: the callback stores it and returns the value that stops the C function; the caller of
that function raises it again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from llama_cffi._native import shutdown
from llama_cffi._native.bound import binding, ffi, lib
from llama_cffi._util.once import once


class Progress:
    """The callback of one model load.

    It is there even without a Python function: each call gives pending signals a chance, so that Ctrl-C stops a load.
    """

    def __init__(self, function: Callable[[float], object] | None) -> None:
        self._function = function
        self._data: Any = None
        self.cancelled = False
        self.error: BaseException | None = None

    def __enter__(self) -> Progress:
        self._data = ffi.new_handle(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data = None

    @property
    def callback(self) -> Any:
        """The C function to register."""
        return _c_callback()

    @property
    def data(self) -> Any:
        """The user data to register; valid inside ``with``."""
        return self._data

    def reraise(self) -> None:
        """Raise what the callback stored; when the interpreter ends, end this thread."""
        if shutdown.begun():
            shutdown.refuse()
        if self.error is not None:
            raise self.error

    def report(self, fraction: float) -> bool:
        """Run the function; False stops the load."""
        if self._function is not None and self._function(fraction) is False:
            self.cancelled = True
        return not self.cancelled and not shutdown.begun()


def _store(kind: Any, error: BaseException, trace: TracebackType) -> bool:
    data = trace.tb_frame.f_locals.get("data")
    if data is not None:
        progress: Progress = ffi.from_handle(data)
        progress.error = error.with_traceback(trace)
    return False


def _on_progress(fraction: float, data: Any) -> bool:
    progress: Progress = ffi.from_handle(data)
    return progress.report(fraction)


@once
def _c_callback() -> Any:
    if binding.mode == "abi":
        return ffi.callback("llama_progress_callback", _on_progress, error=False, onerror=_store)
    ffi.def_extern("llama_cffi_progress", error=False, onerror=_store)(_on_progress)
    return lib.llama_cffi_progress
