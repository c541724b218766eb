"""Who may be inside a native object, and how whoever frees it waits until nobody is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Protocol

from llama_cffi._native import helpers
from llama_cffi._native.helpers import lib
from llama_cffi._util.fork import after_fork, fork_safe, made_elsewhere
from llama_cffi.errors import BusyError, ClosedError

_get_ident = threading.get_ident
_enter, _leave = lib.lch_door_enter, lib.lch_door_leave


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

    __slots__ = ("__weakref__", "_inside", "_lock")

    def __init__(self) -> None:
        # Reentrant: a signal handler may come in while this thread is at the door.
        self._lock = fork_safe(threading.RLock())
        self._inside: list[int] = []
        after_fork(self, SharedGate._keep_this_thread)

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

    def _keep_this_thread(self) -> None:
        me = _get_ident()
        self._inside = [thread for thread in self._inside if thread == me]


class ExclusiveGate:
    """One thread at a time may be inside; a second one gets :class:`BusyError`, and :class:`ClosedError` when somebody
    is about to free the object.

    ``what`` names the object in messages. A closer calls ``interrupt`` while it waits.
    """

    __slots__ = ("_closing", "_interrupt", "_what", "native")

    def __init__(self, what: str = "object", interrupt: Callable[[], object] | None = None) -> None:
        self._what = what
        self._interrupt = interrupt
        self._closing = False
        #: The ``lch_door``, which other helpers may pass through.
        self.native = helpers.new("lch_door")
        lib.lch_door_init(self.native)

    def enter(self) -> bool:
        """Go in, and say whether this thread already was: only who was not leaves again."""
        entry = _enter(self.native)
        if entry < 0:
            self.refuse(entry)
        return bool(entry)

    def leave(self) -> None:
        """Go out."""
        _leave(self.native)

    def refuse(self, entry: int) -> NoReturn:
        """Raise why the door did not open."""
        if entry == lib.LCH_DOOR_FORKED:
            raise made_elsewhere(self._what)
        if entry == lib.LCH_DOOR_COMPUTING:
            raise BusyError(f"this {self._what} is in the middle of a computation")
        if self._closing:
            raise ClosedError(f"this {self._what} is closed")
        raise BusyError(f"another thread is inside this {self._what}; use one per thread, or one Engine for all")

    def __enter__(self) -> None:
        if self.enter():
            raise BusyError(f"this thread is inside this {self._what} already")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def acquire(self) -> None:
        # It stays so when all goes well: who was refused a moment before the object was freed asks a moment later.
        self._closing = True
        try:
            while (entry := _enter(self.native)) != lib.LCH_DOOR_ENTERED:
                if entry == lib.LCH_DOOR_FORKED:
                    return  # nothing of the parent's is freed here
                if entry != lib.LCH_DOOR_BUSY:
                    raise BusyError(f"this {self._what} cannot be closed from inside its own call")
                if self._interrupt is not None:
                    self._interrupt()
                time.sleep(0.0005)
        except BaseException:
            self._closing = False
            raise

    def release(self) -> None:
        self.leave()

    def shut(self) -> None:
        # What runs inside without an interruption is short. The door stays closed: what begins later would break.
        if self._interrupt is not None:
            self._interrupt()
            end = time.monotonic() + 1.0
            while _enter(self.native) == lib.LCH_DOOR_BUSY and time.monotonic() < end:
                time.sleep(0.0005)


__all__ = ["ExclusiveGate", "Gate", "SharedGate"]
