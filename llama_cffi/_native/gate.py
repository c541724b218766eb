"""Gates: the threads that may be inside a native object, and waiting for them to leave before it is freed."""

from __future__ import annotations

import io
import operator
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NoReturn, Protocol

from llama_cffi._native import helpers, shutdown
from llama_cffi._native.helpers import lib
from llama_cffi._util.fork import after_fork, fork_safe, made_elsewhere
from llama_cffi.errors import BusyError, ClosedError

_get_ident = threading.get_ident
_enter = lib.lch_door_enter
_is_inside = helpers.is_inside


class Gate(Protocol):
    """Separates threads that compute with a native object from the thread that frees it."""

    release: Callable[[], object]
    """Let other threads in again; they will find the handle closed. A C function, so that no signal handler runs
    before it in a ``finally`` block."""

    def acquire(self) -> None:
        """Make other threads leave and keep them out; :class:`BusyError` when this thread itself is inside."""

    def stop(self) -> bool:
        """Cut short what other threads do inside; whether they are outside now. Call after :func:`shutdown.begin`."""


class _Section(io.IOBase):
    """A context manager that is left by C code.

    A signal handler can run as soon as a Python ``__exit__`` begins, and what it raises would leave the caller inside
    for ever. The one of ``io`` is C and does nothing but call ``close``, which is a C function here, too. ``__enter__``
    is Python; it leaves again when an exception comes after it has entered.
    """

    closed = True  # nothing to do for io when the object goes
    close: Callable[[], Any]


class SharedGate(_Section):
    """Any number of threads may be inside at once: a :class:`Gate` for objects that are only read.

    A closer calls ``interrupt`` while it waits.
    """

    close = property(operator.attrgetter("_mine.leave"))

    def __init__(self, interrupt: Callable[[], object] | None = None) -> None:
        self._interrupt = interrupt
        # Reentrant: a signal handler may come in while this thread is at the door.
        self._lock = fork_safe(threading.RLock())
        self._inside: list[int] = []
        self._mine = threading.local()
        self.release: Callable[[], object] = self._lock.release
        after_fork(self, SharedGate._keep_this_thread)

    def __enter__(self) -> None:  # type: ignore[override]
        me, inside, mine = _get_ident(), self._inside, self._mine
        if not hasattr(mine, "leave"):
            mine.leave = partial(inside.remove, me)
        n = inside.count(me)
        try:
            if n:
                # A thread that is inside already must not wait for a closer that waits for it.
                inside.append(me)
            else:
                with self._lock:
                    inside.append(me)
            if shutdown.begun():
                shutdown.refuse()
        except BaseException:
            if inside.count(me) > n:
                inside.remove(me)
            raise

    def acquire(self) -> None:
        if _get_ident() in self._inside:
            raise BusyError("this object cannot be closed from inside its own call")
        held = self._lock._is_owned()  # type: ignore[attr-defined]
        try:
            # Held while waiting, so that no other thread enters: leaving needs no lock.
            self._lock.acquire()
            while self._inside:
                if self._interrupt is not None:
                    self._interrupt()
                time.sleep(0.0005)
        except BaseException:
            if not held and self._lock._is_owned():  # type: ignore[attr-defined]
                self._lock.release()
            raise

    def stop(self) -> bool:
        me = _get_ident()
        if all(ident == me for ident in tuple(self._inside)):
            return True
        if self._interrupt is not None:
            self._interrupt()
        return False

    def _keep_this_thread(self) -> None:
        me = _get_ident()
        self._inside[:] = [thread for thread in self._inside if thread == me]


class ExclusiveGate(_Section):
    """One thread at a time may be inside; a second one gets :class:`BusyError`, and :class:`ClosedError` when the
    object is about to be freed.

    ``what`` names the object in messages. A closer calls ``interrupt`` while it waits.
    """

    def __init__(self, what: str = "object", interrupt: Callable[[], object] | None = None) -> None:
        self._what = what
        self._interrupt = interrupt
        self._closing = False
        #: The ``lch_door``, which other helpers may pass through.
        self.native = helpers.new("lch_door")
        lib.lch_door_init(self.native)
        self.close = self.release = helpers.leave(self.native)

    def inside(self) -> AbstractContextManager[None]:
        """``with gate.inside():`` is like ``with gate:``, for a thread that may be inside already."""
        native = self.native
        return _INSIDE if _is_inside(native) and not native.computing else self

    def refuse(self, entry: int) -> NoReturn:
        """Raise the error for which a thread was not admitted."""
        if entry == lib.LCH_DOOR_FORKED:
            raise made_elsewhere(self._what)
        if entry == lib.LCH_DOOR_NESTED:
            raise BusyError(f"this thread is already inside a call of this {self._what}")
        if entry == lib.LCH_DOOR_COMPUTING:
            raise BusyError(f"this {self._what} is in the middle of a computation")
        if shutdown.begun():
            shutdown.refuse()
        if self._closing:
            raise ClosedError(f"this {self._what} is closed")
        raise BusyError(f"another thread is inside this {self._what}; use one per thread, or one Engine for all")

    def __enter__(self) -> None:  # type: ignore[override]
        native = self.native
        was_inside = _is_inside(native)
        try:
            entry = _enter(native)
            if entry:
                self.refuse(entry)
        except BaseException:
            # A signal handler may have raised right after the entry.
            if not was_inside and _is_inside(native):
                self.release()
            raise

    def acquire(self) -> None:
        # It stays so when all goes well: a caller that was refused just before the object was freed asks again.
        self._closing = True
        was_inside = _is_inside(self.native)
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
            if not was_inside and _is_inside(self.native):
                self.release()
            self._closing = False
            raise

    def stop(self) -> bool:
        # This thread goes in and stays there: what begins later would use an object that is free.
        if _enter(self.native) != lib.LCH_DOOR_BUSY:
            return True
        if self._interrupt is not None:
            self._interrupt()
        return False


_INSIDE: AbstractContextManager[None] = nullcontext()

__all__ = ["ExclusiveGate", "Gate", "SharedGate"]
