"""Values that are created at their first use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from llama_cffi._util.fork import fork_safe

T = TypeVar("T")


class once(Generic[T]):
    """Call a function without arguments at its first call only, and return the same object from then on.

    Other than with ``functools.cache``, two threads that come first together get the same object: C code may keep the
    address of what one of them was given. An exception is not kept: the next call tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = fork_safe(threading.RLock())
        self._made = False
        self._value: T | None = None

    def __call__(self) -> T:
        if not self._made:
            with self._lock:
                if not self._made:
                    self._value = self._make()
                    self._made = True
        return cast(T, self._value)


__all__ = ["once"]
