"""Native calls whose result is kept, or taken, in one step that no signal handler interrupts.

Python runs signal handlers between bytecodes, and a handler may raise. Between a call that made an object and the
assignment of its result, that exception loses the object; between taking a pointer and freeing it, too. The functions
here leave the whole step to C code of the interpreter, which runs no handlers.

A *cell* is a list that holds one native pointer (cffi data or an address), or nothing.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any, TypeAlias

Cell: TypeAlias = list[Any]

_NO_RESULT = object()
"""What no function returns."""


def keep(cell: Cell, function: Callable[..., Any], *args: Any) -> None:
    """Call a C function and append its result to the cell."""
    calls = map(function, *[(arg,) for arg in args]) if args else islice(iter(function, _NO_RESULT), 1)
    cell.extend(calls)


def free(function: Callable[[Any], object], cell: Cell, typed: Callable[[Any], Any] | None = None) -> None:
    """Take the pointer out of the cell and give it to a C function; does nothing for an empty cell.

    ``typed`` is a C function, too, and makes what the cell holds what ``function`` takes. After an exception the
    pointer is in the cell, or freed.
    """
    pointers = map(cell.pop, (0,))
    if cell:
        with suppress(IndexError):  # another thread was faster
            deque(map(function, map(typed, pointers) if typed is not None else pointers), maxlen=0)


def raise_later(error: BaseException) -> None:
    """Raise an exception in this thread as soon as the code that runs now has returned to its caller.

    For code that runs where exceptions are lost, as in a weak reference's callback: it calls this last.
    """
    while isinstance(error, _Again):  # it was raised so before
        error = error.again
    kind: type[BaseException] = type(error)
    if error.args or getattr(error, "__dict__", None):
        kind = type(kind.__name__, (_Again, kind), {"__module__": kind.__module__, "again": error})
    raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
    arguments = (ctypes.c_ulong(threading.get_ident()),), (ctypes.py_object(kind),)
    # Not a plain call: after one, the interpreter would raise it right here.
    [*map(raise_in_thread, *arguments)]


class _Again(BaseException):
    """An exception that is made without arguments and equals another one."""

    again: BaseException

    def __init__(self) -> None:
        super().__init__(*self.again.args)
        self.__dict__.update(self.again.__dict__)
        self.__cause__ = self.again.__cause__


__all__ = ["Cell", "free", "keep", "raise_later"]
