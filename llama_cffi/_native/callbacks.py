"""Python functions that llama.cpp calls, one ``extern "Python"`` per C signature.

An exception must not cross C: the callback stores it and returns the value that stops the C function; whoever made
the call raises it again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from llama_cffi._native import ffi, lib


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
        return lib.llama_cffi_progress

    @property
    def data(self) -> Any:
        """The user data to register; valid inside ``with``."""
        return self._data

    def reraise(self, cleanup: Callable[[], object] | None = None) -> None:
        """Raise what the callback stored, after ``cleanup``."""
        if self.error is not None:
            if cleanup is not None:
                cleanup()
            raise self.error

    def report(self, fraction: float) -> bool:
        """Run the function; False stops the load."""
        if self._function is not None and self._function(fraction) is False:
            self.cancelled = True
        return not self.cancelled


def _store(kind: Any, error: BaseException, trace: TracebackType) -> bool:
    data = trace.tb_frame.f_locals.get("data")
    if data is not None:
        progress: Progress = ffi.from_handle(data)
        progress.error = error.with_traceback(trace)
    return False


@ffi.def_extern(name="llama_cffi_progress", onerror=_store, error=False)  # type: ignore[untyped-decorator]
def _on_progress(fraction: float, data: Any) -> bool:
    progress: Progress = ffi.from_handle(data)
    return progress.report(fraction)
