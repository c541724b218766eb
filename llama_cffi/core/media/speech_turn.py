"""Whose speech a projector computes: one at a time, because libmtmd has one series of random numbers for all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from llama_cffi._util.fork import fork_safe
from llama_cffi.errors import BusyError

_LOOK_SECONDS = 0.05
"""How often a thread that waits looks whether it should still."""


class SpeechTurn:
    """The right to generate speech with a projector, from the first step of a speech to its last one.

    Any thread may :meth:`give_back` what another one has taken.
    """

    __slots__ = ("_holder", "_lock", "seed")

    def __init__(self) -> None:
        self._lock = fork_safe(threading.Lock())
        self._holder: int | None = None
        self.seed: int | None = None
        """The seed of libmtmd's random numbers: it starts them anew only where a call has another one."""

    def take(self, give_up: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait for the turn; False when ``give_up`` says so, or a :func:`time.monotonic` deadline has passed.

        Raises :class:`BusyError` where the thread itself has a speech that has not ended.
        """
        while not self._lock.acquire(timeout=_LOOK_SECONDS):
            if self._holder == threading.get_ident():
                raise BusyError(
                    "this thread is in the middle of another speech of this model: read it to its end, or close it"
                )
            if give_up() or (deadline is not None and monotonic() >= deadline):
                return False
        self._holder = threading.get_ident()
        return True

    def move(self) -> None:
        """Say that the speech is now computed by this thread."""
        self._holder = threading.get_ident()

    def give_back(self) -> None:
        """Let the next speech begin."""
        self._holder = None
        self._lock.release()


__all__ = ["SpeechTurn"]
