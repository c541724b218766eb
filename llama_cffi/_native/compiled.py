"""The helpers in C++, and their callbacks in Python."""

from __future__ import annotations

import faulthandler
import functools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llama_cffi._native import atomic, bound
from llama_cffi.errors import LibraryError

if TYPE_CHECKING:
    from llama_cffi._native.handle import Handle

try:
    from llama_cffi._native._helpers import ffi, lib
except ImportError as error:
    raise LibraryError(
        f"the compiled helpers are installed but cannot be loaded: {error}\n"
        "reinstall llama-cffi, or set LLAMA_CFFI_HELPERS=none to run without them"
    ) from error


_get_ident = threading.get_ident


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


@ffi.def_extern()  # type: ignore[untyped-decorator]
def lch_python_stacks() -> None:
    """Print the stacks of all Python threads, before the process ends."""
    faulthandler.dump_traceback(file=2, all_threads=True)


lib.lch_abort_signals(lib.lch_python_signals)
lib.lch_main_thread(threading.main_thread().ident or 0)
lib.lch_on_fatal(lib.lch_python_stacks)


def take_interrupt() -> BaseException | None:
    """See :mod:`llama_cffi._native.helpers`, as for everything below."""
    error, _Interrupt.exception = _Interrupt.exception, None
    return error


def new(struct: str) -> Any:
    return ffi.new(f"{struct} *")


def address(name: str) -> Any:
    return ffi.addressof(lib, name)


def pointer(struct: Any) -> Any:
    return ffi.cast("void *", struct)


def turns(found: Sequence[Any]) -> Any:
    return ffi.new("lch_turn *[]", found)


def pool(handle: Handle) -> Any:
    return ffi.cast("void *", handle.ptr)


def is_inside(door: Any) -> bool:
    return door.owner == _get_ident()  # type: ignore[no-any-return]


keep = atomic.keep


def leave(door: Any) -> Any:
    return functools.partial(lib.lch_door_leave, door)


def function(name: str) -> Any:
    return ffi.cast("void *", bound.home(name).function(name))


__all__ = [
    "address",
    "ffi",
    "function",
    "is_inside",
    "keep",
    "leave",
    "lib",
    "new",
    "pointer",
    "pool",
    "take_interrupt",
    "turns",
]
