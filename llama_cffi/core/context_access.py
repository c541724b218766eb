"""Access to a native context, for its Context and the views of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi._native.handle import Handle
from llama_cffi._util.scalars import check_seq_id
from llama_cffi.errors import ContextError, NativeError


class ContextAccess:
    """A ``llama_context`` with the gate in front of it, and what has left it unusable.

    Views of a context (memory, outputs, state) hold this and not the Context: they keep the native object alive, and
    the Context can keep them without a reference cycle.
    """

    __slots__ = ("_abort", "_broken", "door", "gate", "handle", "n_seq_max")

    def __init__(self, handle: Handle, gate: ExclusiveGate, n_seq_max: int, abort: AbortFlag) -> None:
        self.handle = handle
        self.gate = gate
        self._abort = abort
        self.door: Any = gate.native
        """The ``lch_door``; ``n_computed`` counts computations, ``shut`` says that the context is unusable."""
        self.n_seq_max = n_seq_max
        self._broken: str | None = None

    @property
    def ptr(self) -> Any:
        """The ``llama_context *``; :class:`ClosedError` after close."""
        return self.handle.ptr

    def lock(self) -> AbstractContextManager[None]:
        """Return a context manager that holds the context for this thread.

        It raises :class:`BusyError` when another thread has it.
        """
        return self.gate.inside()

    @contextmanager
    def using(self, *, rewrites: bool = False) -> Iterator[Any]:
        """Hold the context for native calls that could damage it; yields its pointer.

        Raises the errors of :meth:`lock`, and :class:`ContextError` when an earlier failure left it unusable. With
        ``rewrites`` the calls write its results too: views of them become stale.
        """
        with self.lock():
            if self.door.shut:
                self.raise_unusable()
            if rewrites:
                self.door.n_computed += 1
            try:
                yield self.handle.ptr
            except NativeError as error:
                self.note_damage(error)
                raise

    @contextmanager
    def computing(self, deadline: float | None) -> Iterator[Any]:
        """Hold the context for a native call that decodes with it; yields its pointer.

        Raises as :meth:`using`; afterwards :meth:`check_stopped` says whether something has stopped the call.
        """
        with self.using(rewrites=True) as ptr:
            self._abort.deadline = deadline
            self._abort.arm()
            self.door.computing = 1
            try:
                yield ptr
            finally:
                self.door.computing = 0

    def check_stopped(self) -> None:
        """Raise what a signal handler has raised during a computation, and :class:`AbortedError` after an abort or
        the deadline."""
        self._abort.check("the computation")

    def note_damage(self, error: NativeError) -> None:
        """Make the context unusable from now on when an error has left ggml in an unknown state."""
        if error.message.partition(": ")[2].startswith("ggml"):
            # The assertion left ggml's scheduler in the middle of something; llama.cpp's own checks come before.
            self._broken = error.message
            self.door.shut = 1

    def raise_unusable(self) -> NoReturn:
        """Raise why the context cannot be used: it is closed, or an earlier failure has left it unusable."""
        self.handle.ptr  # noqa: B018 - raises when closed
        raise ContextError(f"this Context is unusable since an earlier failure: {self._broken}")

    def check_seq_id(self, seq_id: int) -> int:
        """Return a sequence id; ``ValueError`` outside ``0 <= seq_id < n_seq_max``."""
        return check_seq_id(seq_id, self.n_seq_max)


__all__ = ["ContextAccess"]
