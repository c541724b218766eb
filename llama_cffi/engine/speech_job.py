"""A text that is being spoken, as its reader sees it, wherever it is computed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING

from llama_cffi._util.fork import fork_safe
from llama_cffi.errors import BusyError
from llama_cffi.reply.completion import FinishReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.media.speech_turn import SpeechTurn


class SpeechJob(ABC):
    """A text that is being spoken. It waits for its turn at the first piece, and computes while it is read."""

    def __init__(self, turn: SpeechTurn, sample_rate: int, max_seconds: float | None) -> None:
        self._turn = turn
        self._deadline = None if max_seconds is None else monotonic() + max_seconds
        self.sample_rate = sample_rate
        """Samples per second."""
        self.finish_reason: FinishReason | None = None
        """Why it has ended; None before, and when it has failed."""
        self.n_frames = 0
        """Frames that were generated."""
        self.n_prompt = 0
        """Positions that text and voice have taken."""
        self.ended = False
        """Whether there is nothing more of it."""
        self.thread = 0
        """The thread that has read last."""
        self._cancelled = False
        # Reentrant: a signal handler may cancel in the middle.
        self._lock = fork_safe(threading.RLock())
        self._reader: object = None

    def next_piece(self) -> NDArray[np.float32] | None:
        """Return the next samples, float32 from -1 to 1 of shape ``(n,)``; None at the end.

        Raises the errors of :meth:`SpeechGenerator.start` and :meth:`SpeechGenerator.step`, and :class:`BusyError`
        while another thread is reading, and where this thread has begun another speech that has not ended.
        """
        me = object()
        try:
            if not self._claim(me):
                raise BusyError("another thread is reading this speech")
            try:
                self.thread = threading.get_ident()
                return None if self.ended else self._advance()
            except BaseException:
                self._end(None)
                raise
        finally:
            # No calls: a signal handler would run after them.
            if self._reader is me:
                self._reader = None
            if self._cancelled:
                self._end_if_idle()

    def _claim(self, reader: object) -> bool:
        """Let a reader be the only one; False where there is one."""
        with self._lock:
            if self._reader is None:
                self._reader = reader
            return self._reader is reader

    def cancel(self) -> None:
        """End it, within a frame if it is being computed. Any thread may call it; idempotent."""
        self._cancelled = True
        self._abort()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        me = object()
        try:
            if not self.ended and self._claim(me):
                self._end(FinishReason.CANCELLED)
        finally:
            if self._reader is me:
                self._reader = None

    def _take_turn(self) -> FinishReason | None:
        """Wait for the turn; returns why it will not come."""
        if self._turn.take(self, lambda: self._cancelled, self._deadline):
            return None
        return FinishReason.CANCELLED if self._cancelled else FinishReason.DEADLINE

    def _late(self) -> bool:
        return self._deadline is not None and monotonic() >= self._deadline

    def _end(self, reason: FinishReason | None) -> None:
        if self.ended:
            return
        try:
            self._release()
        finally:
            # From here on the next one may begin.
            self.finish_reason, self.ended = reason, True
            self._turn.forget(self)

    @abstractmethod
    def _advance(self) -> NDArray[np.float32] | None:
        """Return the next samples, or end and return the last ones, None where there are no more."""

    @abstractmethod
    def _abort(self) -> None:
        """Stop what is computed for it. Any thread calls it, also a finalizer."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what it has: it ends, and then the next one may begin."""


__all__ = ["SpeechJob"]
