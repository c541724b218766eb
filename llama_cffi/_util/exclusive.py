"""What one thread at a time may do, and never in the middle of itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llama_cffi._util.fork import fork_safe
from llama_cffi.errors import BusyError


class Exclusive:
    """Lets one thread in at a time. Others wait; the thread that is in, from a callback or signal handler, is refused.

    ``refusal`` is the message of its :class:`BusyError`.
    """

    __slots__ = ("_lock", "_refusal", "_used")

    def __init__(self, refusal: str) -> None:
        # Reentrant, so that what comes in the middle is refused instead of waiting for what it interrupted.
        self._lock = fork_safe(threading.RLock())
        self._refusal = refusal
        self._used = False

    @contextmanager
    def use(self) -> Iterator[None]:
        """Be in for a block; raises :class:`BusyError` on the thread that is in."""
        with self._lock:
            if self._used:
                raise BusyError(self._refusal)
            self._used = True
            try:
                yield
            finally:
                self._used = False


__all__ = ["Exclusive"]
