"""Delivery of new chunks from the engine's thread to an event loop."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable

from llama_cffi.engine.running_sequence import RunningSequence


class Delivery:
    """Wakes the coroutines of one event loop, with one call into the loop for each step.

    It is a listener of sequences, called on the thread that computes. A slow loop gets the chunks of several steps in
    one call. When the loop is closed, ``abandon`` ends the sequences that cannot be read any more.
    """

    def __init__(self, loop: AbstractEventLoop, abandon: Callable[[RunningSequence], object]) -> None:
        self.loop = loop
        self._abandon = abandon
        self._news: deque[RunningSequence] = deque()
        self._scheduled = False
        self._waiting: dict[RunningSequence, Future[None]] = {}

    def __call__(self, sequences: list[RunningSequence]) -> None:
        """Take the news of a step."""
        self._news.extend(sequences)
        if self.loop.is_closed():  # maybe with a call that it will not make any more
            self._abandon_all()
        elif not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # it was closed just now
                self._abandon_all()

    def _abandon_all(self) -> None:
        while self._news:
            self._abandon(self._news.popleft())

    def _deliver(self) -> None:
        # First of all: what comes from now on needs another call.
        self._scheduled = False
        news, waiting = self._news, self._waiting
        while news:
            future = waiting.pop(news.popleft(), None)
            if future is not None and not future.done():
                future.set_result(None)

    async def wait(self, sequence: RunningSequence) -> None:
        """Return when there is news of a sequence that came after this call. One task at a time waits for each."""
        if sequence in self._waiting:
            raise RuntimeError("another task is waiting for this stream")
        self._waiting[sequence] = future = self.loop.create_future()
        try:
            await future
        finally:
            if self._waiting.get(sequence) is future:
                del self._waiting[sequence]


__all__ = ["Delivery"]
