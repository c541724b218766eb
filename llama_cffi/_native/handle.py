"""Ownership of one native object."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.errors import ClosedError, InUseError

if TYPE_CHECKING:
    from llama_cffi._native.gate import Gate


class Handle(ProcessBound):
    """One owned native pointer, freed exactly once and always before its parents.

    ``free(ptr)`` runs at :meth:`close`, when the handle is collected, or at interpreter exit, whichever comes
    first. The finalizer's arguments hold the parent handles, so a parent outlives its children even inside a
    garbage cycle, where Python promises no order. They never hold the handle itself or its wrapper: that would
    keep both alive for ever.

    A handle that crossed ``fork`` never frees: the object belongs to the parent process. When the interpreter ends
    while daemon threads live, nothing is freed either: one of them may be inside. ``gate`` then stops them, and
    :meth:`close` passes it before freeing.
    """

    __slots__ = ("__weakref__", "_children", "_finalizer", "_gate", "_name", "_ptr", "_users")

    # Two handles of one pointer would free it while the other one is in use.
    _instead_of_copying = "share it"

    def __init__(
        self,
        name: str,
        ptr: Any,
        free: Callable[[Any], object],
        parents: Iterable[Handle] = (),
        gate: Gate | None = None,
    ) -> None:
        parents = tuple(parents)
        for parent in parents:
            parent._check_open()
        self._name = name
        self._ptr = ptr
        self._gate = gate
        # Newest last; weak, because children hold their parents and not the other way round.
        self._children: dict[int, weakref.ref[Handle]] = {}
        self._users: dict[int, str] = {}
        self._finalizer = weakref.finalize(self, _release, ptr, free, os.getpid(), parents, id(self), gate)
        for parent in parents:
            parent._children[id(self)] = weakref.ref(self)

    @property
    def ptr(self) -> Any:
        """The native pointer; :class:`ClosedError` after close."""
        if self._ptr is None:
            raise ClosedError(f"this {self._name} is closed")
        return self._ptr

    @property
    def closed(self) -> bool:
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

        Idempotent; :class:`InUseError` while attached.
        """
        while self._ptr is not None:
            if self._users:
                raise InUseError(f"this {self._name} is in use: {'; '.join(self._users.values())}")
            self._close_children()
            if self._gate is None:
                self._free()
                return
            self._gate.acquire()
            try:
                # A thread that was inside may have made a child: that one goes first.
                if not self._children:
                    self._free()
            finally:
                self._gate.release()

    def _close_children(self) -> None:
        children = [child for ref in reversed(tuple(self._children.values())) if (child := ref()) is not None]
        # What another child uses waits until that one has let go of it.
        for child in sorted(children, key=lambda child: bool(child._users)):
            child.close()
        while any(ref() is None for ref in tuple(self._children.values())):
            # The last reference to a child went away on another thread, which is inside its free() right now.
            time.sleep(0.0005)

    def _free(self) -> None:
        self._ptr = None
        self._finalizer()

    def forget(self) -> Any:
        """Give up ownership and return the pointer: another native object owns it now."""
        ptr = self.ptr
        self._ptr = None
        detached = self._finalizer.detach()
        if detached is not None:
            for parent in detached[2][3]:
                parent._children.pop(id(self), None)
        return ptr

    def _check_open(self) -> None:
        if self._ptr is None:
            raise ClosedError(f"this {self._name} is closed")

    def __repr__(self) -> str:
        return f"<Handle {self._name} {'closed' if self._ptr is None else self._ptr}>"


def _release(
    ptr: Any,
    free: Callable[[Any], object],
    pid: int,
    parents: tuple[Handle, ...],
    key: int,
    gate: Gate | None,
) -> None:
    try:
        if os.getpid() != pid:
            return
        if _ending_with_threads():
            if gate is not None:
                gate.shut()
            return
        free(ptr)
    finally:
        for parent in parents:
            parent._children.pop(key, None)


def _ending_with_threads() -> bool:
    """Whether the interpreter is ending under daemon threads: it stops the main thread, then runs finalizers."""
    if threading.main_thread().is_alive():
        return False
    return any(thread.daemon and thread.is_alive() for thread in threading.enumerate())
