"""Whose speech a projector computes: one at a time, because libmtmd has one series of random numbers for all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Protocol

from llama_cffi._util.fork import fork_safe
from llama_cffi.errors import BusyError

_LOOK_SECONDS = 0.02
"""How often a thread that waits looks whether it should still."""


class Speech(Protocol):
    """What takes a turn."""

    ended: bool
    """Whether it needs the turn no more: the next one may have it."""
    thread: int
    """The thread that computes it."""


class SpeechTurn:
    """The right to generate speech with a projector, from the first step of a speech to its end."""

    __slots__ = ("_holder", "_lock", "seed")

    def __init__(self) -> None:
        # Reentrant: what is collected in the middle may end a speech.
        self._lock = fork_safe(threading.RLock())
        self._holder: Speech | None = None
        self.seed: int | None = -1
        """The seed of libmtmd's random numbers, which it starts anew only where a call has another one; -1 before the
        first, None where a call was interrupted."""

    def take(self, speech: Speech, give_up: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait for the turn; False when ``give_up`` says so, or a :func:`time.monotonic` deadline has passed.

        The speech has it until it is ``ended``. Raises :class:`BusyError` where the same thread computes another one.
        """
        while (holder := self._holder_now(speech)) is not speech:
            if holder.thread == threading.get_ident():
                raise BusyError(
                    "this thread is in the middle of another speech of this model: read it to its end, or close it"
                )
            if give_up() or (deadline is not None and monotonic() >= deadline):
                return False
            sleep(_LOOK_SECONDS)
        return True

    def _holder_now(self, wants: Speech) -> Speech:
        """The speech that has the turn, which is the one that wants it if no other has it."""
        with self._lock:
            holder = self._holder
            if holder is None or holder.ended:
                holder = self._holder = wants
            return holder

    def forget(self, speech: Speech) -> None:
        """Keep nothing of a speech that has ended."""
        with self._lock:
            if self._holder is speech:
                self._holder = None


__all__ = ["Speech", "SpeechTurn"]
