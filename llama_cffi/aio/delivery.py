"""Delivery of news from the engine's thread to an event loop: new chunks, and room in the queue."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Event, Future, Lock, get_running_loop
from collections import deque
from collections.abc import Callable

from llama_cffi.engine.running_sequence import RunningSequence


class Delivery:
    """Wakes the coroutines of one event loop, with one call into the loop for each step.

    It is a listener of sequences, called on the thread that computes. A slow loop gets the chunks of several steps in
    one call. When the loop is closed, ``abandon`` ends the sequences that cannot be read any more, and ``closed`` is
    called when there is room for a call that waits no more. ``ended`` is called on the thread that computes with each
    sequence that has ended.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        abandon: Callable[[RunningSequence], object],
        ended: Callable[[RunningSequence], object],
        closed: Callable[[], object],
    ) -> None:
        self.loop = loop
        self.line = Lock()
        """Held by the first of the calls that wait for room in the queue; the others wait for it, in their order."""
        self.room = Event()
        """Set when there may be room again."""
        self._abandon = abandon
        self._ended = ended
        self._closed = closed
        self._news: deque[RunningSequence] = deque()
        self._scheduled = False
        self._waiting: dict[RunningSequence, Future[None]] = {}

    def __call__(self, sequences: list[RunningSequence]) -> None:
        """Take the news of a step; an empty list says that there is room in the queue."""
        if not sequences:
            self.tell_of_room()
            return
        for sequence in sequences:
            if sequence.done:
                self._ended(sequence)
        self._news.extend(sequences)
        if self.loop.is_closed():  # maybe with a call that it will not make any more
            self._abandon_all()
        elif not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # it was closed just now
                self._abandon_all()

    def tell_of_room(self) -> None:
        """Wake the call that waits for room. Any thread may call it."""
        try:
            self.loop.call_soon_threadsafe(self.room.set)
        except RuntimeError:  # the loop is closed
            self._closed()

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
        if get_running_loop() is not self.loop:
            raise RuntimeError("this stream was started in another event loop, which alone can read it")
        self._waiting[sequence] = future = self.loop.create_future()
        try:
            await future
        finally:
            if self._waiting.get(sequence) is future:
                del self._waiting[sequence]


__all__ = ["Delivery"]
