"""A model, or another object, that several ``Llama`` objects own together."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from llama_cffi._util.fork import fork_safe


class Closable(Protocol):
    """What is closed when nothing needs it any more: a model, a projector."""

    def close(self) -> None:
        """Free it."""


class ModelShare:
    """One owner's part in a loaded model: the last one that is closed closes the model.

    A part that was collected without being closed does not count: the model is then freed with the last reference to
    it.
    """

    __slots__ = ("__weakref__", "_lock", "_model", "_parts")

    def __init__(self, model: Closable) -> None:
        self._model = model
        # Reentrant: a signal handler may close another part in the middle of it.
        self._lock = fork_safe(threading.RLock())
        self._parts: weakref.WeakSet[ModelShare] = weakref.WeakSet((self,))

    def share(self) -> ModelShare:
        """Return the part of one more owner."""
        twin = object.__new__(ModelShare)
        twin._model, twin._lock, twin._parts = self._model, self._lock, self._parts
        with self._lock:
            self._parts.add(twin)
        return twin

    def close(self) -> None:
        """Give the part up. Idempotent."""
        with self._lock:
            self._parts.discard(self)
            is_last = not self._parts
        if is_last:
            self._model.close()


__all__ = ["Closable", "ModelShare"]
