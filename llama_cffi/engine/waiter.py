"""A thread that waits until another one has computed something."""

from __future__ import annotations

import threading
from contextlib import suppress

_PATIENCE = 0.25
"""Seconds after which a wait ends by itself: a signal handler may have raised between a step and its news."""


class Waiter:
    """Waits once, at most :data:`_PATIENCE`; :meth:`wake` ends it, also before it began."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        """Return when :meth:`wake` was called, or a moment has passed."""
        self._lock.acquire(timeout=_PATIENCE)

    def wake(self, _: object = None) -> None:
        """End the wait. Any thread may call it, any number of times."""
        with suppress(RuntimeError):  # it is open
            self._lock.release()


__all__ = ["Waiter"]
