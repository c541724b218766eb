"""Ownership of one native object."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from llama_cffi._native import shutdown
from llama_cffi._native.atomic import Cell, raise_later
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.errors import ClosedError, InUseError

if TYPE_CHECKING:
    from llama_cffi._native.gate import Gate


class Handle(ProcessBound):
    """One owned native pointer, freed exactly once and always before its parents.

    The handle comes first and the native object after it, so that there is no moment at which nothing owns it:
    the call that makes the object puts the pointer into :attr:`cell` in one step (see :mod:`.atomic`), and :meth:`open`
    lets it be used. ``free(cell)`` frees what the cell holds. It is called again when a signal handler raised in the
    middle of it, and goes on where it was.

    That happens at :meth:`close`, when the handle is collected, or at interpreter exit, whichever comes first. The
    owner's record holds the parent handles, so a parent outlives its children even inside a garbage cycle, where Python
    promises no order. It never holds the handle itself or its wrapper: that would keep both alive for ever.

    A handle that crossed ``fork`` never frees: the object belongs to the parent process. At interpreter exit all
    threads are brought out of all gates first, and nothing is freed when one cannot be. :meth:`close` passes ``gate``
    before freeing.
    """

    __slots__ = ("__weakref__", "_children", "_gate", "_name", "_owner", "_ptr", "_users", "cell")

    # Two handles of one pointer would free it while the other one is in use.
    _instead_of_copying = "share it"

    def __init__(
        self,
        name: str,
        free: Callable[[Cell], object],
        parents: Iterable[Handle] = (),
        gate: Gate | None = None,
    ) -> None:
        parents = tuple(parents)
        for parent in parents:
            parent._check_open()
        self._name = name
        self._ptr: Any = None
        self._gate = gate
        # Newest last; weak, because children hold their parents and not the other way round.
        self._children: dict[int, _Owner] = {}
        self._users: dict[int, str] = {}
        #: Holds the native pointer as the call that made it returned it, or nothing.
        self.cell: Cell = []
        self._owner = owner = _Owner(self, free, parents, gate)
        _owners[owner.key] = owner
        for parent in parents:
            parent._children[owner.key] = owner

    def open(self, ptr: Any) -> None:
        """Let the object be used: ``ptr`` is what the cell holds, with its type."""
        self._ptr = ptr

    def release(self) -> None:
        """Free what was made so far. For a caller that is inside of the gate: a constructor that fails."""
        self._ptr = None
        self._owner.release()

    @property
    def ptr(self) -> Any:
        """The native pointer; :class:`ClosedError` after close."""
        if self._ptr is None:
            self._check_open()
        return self._ptr

    @property
    def closed(self) -> bool:
        """Whether there is no pointer, or none any more. In other threads than the main one, the question ends the
        thread when the interpreter is ending: what it would raise next would be printed."""
        if self._ptr is None:
            shutdown.end_thread()
        return self._ptr is None

    def attach(self, user: object, reason: str) -> None:
        """Record that ``user`` holds the raw pointer: :meth:`close` raises until :meth:`detach`."""
        self._check_open()
        self._users[id(user)] = reason

    def detach(self, user: object) -> None:
        """Undo :meth:`attach`; harmless when ``user`` was never attached."""
        self._users.pop(id(user), None)

    def close(self) -> None:
        """Close children, newest first and those in use last, then free.

        Idempotent; :class:`InUseError` while attached. What a signal handler raises meanwhile comes out before
        anything is freed, or when all of it is.
        """
        while self._owner.holds:
            if self._users:
                raise InUseError(f"this {self._name} is in use: {'; '.join(self._users.values())}")
            self._close_children()
            if self._gate is None:
                if not self._children:
                    self.release()
            else:
                self._gate.acquire()
                try:
                    # A thread that was inside may have made a child: that one goes first.
                    if not self._children:
                        self.release()
                finally:
                    self._gate.release()
            if self._owner.holds:
                time.sleep(0.0005)

    def _close_children(self) -> None:
        owners = tuple(self._children.values())
        children = [child for owner in reversed(owners) if (child := owner()) is not None and not child.closed]
        # What another child uses waits until that one has let go of it.
        for child in sorted(children, key=lambda child: bool(child._users)):
            child.close()
        # Those without a pointer are being made or freed by another thread, which will be done. By this thread, when
        # a signal handler closes the parent in the middle of it; by none, in a child of the process where they were.
        for owner in owners:
            if owner.lock._is_owned() or (owner.holds and owner.pid != os.getpid()):  # type: ignore[attr-defined]
                owner.release()

    def _check_open(self) -> None:
        if self._ptr is None:
            if shutdown.begun():
                shutdown.refuse()
            raise ClosedError(f"this {self._name} is closed")

    def __repr__(self) -> str:
        return f"<Handle {self._name} {'closed' if self._ptr is None else self._ptr}>"


class _Owner(weakref.ref["Handle"]):
    """What frees an object when its handle is gone, or before: everything about it but the handle."""

    __slots__ = ("cell", "free", "gate", "holds", "key", "lock", "parents", "pid")

    cell: Cell
    free: Callable[[Cell], object]
    gate: Gate | None
    holds: bool
    key: int
    lock: threading.RLock
    parents: tuple[Handle, ...]
    pid: int

    def __new__(
        cls, handle: Handle, free: Callable[[Cell], object], parents: tuple[Handle, ...], gate: Gate | None
    ) -> _Owner:
        key = next(_keys)
        watch = _watch(key)
        next(watch)
        self = super().__new__(cls, handle, watch.send)
        self.key, self.cell, self.free, self.parents, self.gate = key, handle.cell, free, parents, gate
        self.pid = os.getpid()
        self.holds = True
        # Reentrant: a signal handler may close what this thread is freeing.
        self.lock = threading.RLock()
        return self

    def __init__(self, *_: object) -> None:
        """Nothing: :meth:`__new__` has done it."""

    def release(self) -> None:
        """Free, once. What a signal handler raises meanwhile is raised when everything is freed."""
        interruption: BaseException | None = None
        for _ in range(_ATTEMPTS):
            try:
                _release(self)
                break
            except BaseException as error:
                interruption = error
        if interruption is not None:
            try:
                raise interruption
            finally:
                del interruption  # its traceback holds this frame


_ATTEMPTS = 100
"""Signals that may come while one object is freed."""

_keys = itertools.count()

_owners: dict[int, _Owner] = {}
"""All that own something, the oldest first."""


def _release(owner: _Owner) -> None:
    if owner.pid != os.getpid():
        # Locks that another thread held during the fork stay locked.
        owner.cell.clear()
        _forget(owner)
        return
    with owner.lock:
        if owner.holds:
            owner.free(owner.cell)
            _forget(owner)


def _forget(owner: _Owner) -> None:
    for parent in owner.parents:
        parent._children.pop(owner.key, None)
    owner.parents = ()
    _owners.pop(owner.key, None)
    owner.holds = False


def _watch(
    key: int,
    owners: dict[int, _Owner] = _owners,
    ending: Callable[[], bool] = shutdown.begun,
    later: Callable[[BaseException], None] = raise_later,
) -> Generator[None, Handle | weakref.ref[Handle], None]:
    """Free the owner's object when the handle is gone: that is when the second value is sent.

    The defaults are what it uses: a handle may go when the interpreter has emptied this module.

    A signal handler may run as soon as a function begins, and what it raises in a weak reference's callback is printed
    and forgotten. In a generator that happens where it can be caught.
    """
    interruption: BaseException | None = None
    attempts = _ATTEMPTS
    try:
        yield
    except GeneratorExit:
        return  # freed before the handle went
    except BaseException as error:
        interruption = error
    # Nothing is called outside of the try blocks: handlers run after calls.
    while attempts:
        attempts -= 1
        try:
            owner = owners.get(key)
            if owner is not None and not ending():
                owner.release()
            break
        except BaseException as error:
            interruption = error
    owner = None
    if interruption is not None:
        later(interruption)
    yield


class _Exit:
    """What happens to all owners at the end of the interpreter."""

    deadline: float | None = None

    def run(self) -> None:
        pid = os.getpid()
        owners = [owner for owner in reversed(tuple(_owners.values())) if owner.pid == pid]
        shutdown.begin()
        if self.deadline is None:
            self.deadline = time.monotonic() + shutdown.STOP_SECONDS
        busy = [owner.gate for owner in owners if owner.gate is not None]
        while busy := [gate for gate in busy if not gate.stop()]:
            if time.monotonic() > self.deadline:
                return
            time.sleep(0.0005)
        while owners:
            # The newest first, but nothing before what was made from it or computes with it.
            ready = [owner for owner in owners if not _is_used(owner)] or owners
            for owner in ready:
                handle = owner()
                if handle is not None:
                    handle._ptr = None
                owner.release()
            owners = [owner for owner in owners if owner.holds]


def _is_used(owner: _Owner) -> bool:
    handle = owner()
    return handle is not None and bool(handle._users or handle._children)


def _at_exit(step: _Exit) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            return step.run()
        except BaseException:
            # A signal handler raised. Objects that are freed while threads use them would be worse than a late exit.
            if attempt == _ATTEMPTS - 1:
                raise


# The oldest finalizer of the package, and so the last one to run: others may still use what is freed here.
weakref.finalize(_Exit, _at_exit, _Exit())

__all__ = ["Handle"]
