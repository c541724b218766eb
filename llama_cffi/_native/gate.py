"""Who may be inside a native object, and how whoever frees it waits until nobody is."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Protocol

from llama_cffi.errors import BusyError

_get_ident = threading.get_ident


class Gate(Protocol):
    """What keeps threads that compute with a native object apart from the one that frees it."""

    def acquire(self) -> None:
        """Bring other threads out and keep them out; :class:`BusyError` when this thread itself is inside."""

    def release(self) -> None:
        """Let them in again; they will find the handle closed."""

    def shut(self) -> None:
        """The interpreter ends and nothing is freed: end what runs long inside, and let nothing long begin."""


class SharedGate:
    """Any number of threads may be inside at once: a :class:`Gate` for objects that are only read."""

    __slots__ = ("_inside", "_lock")

    def __init__(self) -> None:
        # Reentrant: a signal handler may come in while this thread is at the door.
        self._lock = threading.RLock()
        self._inside: list[int] = []

    def __enter__(self) -> None:
        me = _get_ident()
        if me in self._inside:
            # Who is inside already must not wait for a closer that waits for him.
            self._inside.append(me)
            return
        with self._lock:
            self._inside.append(me)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.remove(_get_ident())

    def acquire(self) -> None:
        if _get_ident() in self._inside:
            raise BusyError("this object cannot be closed from inside its own call")
        # Held while waiting, so that nobody else enters: leaving needs no lock.
        self._lock.acquire()
        while self._inside:
            time.sleep(0.0005)

    def release(self) -> None:
        self._lock.release()

    def shut(self) -> None:
        pass  # what runs inside is short


class ExclusiveGate:
    """One thread at a time may be inside; a second one gets :class:`BusyError`."""

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError("another thread is inside this object")
        self._owner = _get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner = None
        self._lock.release()

    def acquire(self) -> None:
        while not self._lock.acquire(timeout=0.01):
            if self._owner == _get_ident():
                raise BusyError("this object cannot be closed from inside its own call")

    def release(self) -> None:
        self._lock.release()

    def shut(self) -> None:
        pass  # what runs inside is short


__all__ = ["ExclusiveGate", "Gate", "SharedGate"]
