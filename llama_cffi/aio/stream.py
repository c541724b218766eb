"""The chunks of one request, as an asynchronous iterator."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, overload

from llama_cffi._util.closing import AsyncClosing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.reply.completion import Chunk, Completion, P, merged

if TYPE_CHECKING:
    from typing_extensions import Self

    from llama_cffi.aio.delivery import Delivery
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.running_sequence import RunningSequence
    from llama_cffi.reply.completion import TextProgress
    from llama_cffi.reply.reader import Reading
    from llama_cffi.reply.reply import Reply, ReplyChunk

C = TypeVar("C", bound=Chunk)

_BEHIND = 16
"""Chunks that a reader may be behind before they are given to it as one."""


class Started(NamedTuple, Generic[C]):
    """A request that was submitted, and what its owner needs."""

    engine: Engine
    delivery: Delivery
    sequence: RunningSequence
    reading: Reading[C]


class AsyncStream(AsyncClosing, ProcessBound, AsyncIterator[C], Generic[C]):
    """The chunks of one request, as an asynchronous iterator; the last chunk has the completion.

    The request is prepared and submitted with the first ``await``, which raises what is wrong with it. Cancelling the
    task that waits, :meth:`aclose`, leaving an ``async with`` and dropping the stream each cancel the request; what was
    computed stays in memory for the next one. A reader that falls behind gets several chunks as one, and computing goes
    on. One task at a time may read.
    """

    _instead_of_pickling = "send its chunks"
    _instead_of_copying = "start another one"

    def __init__(self, start: Callable[[], Awaitable[Started[C]]]) -> None:
        self._start = start
        self._started: Started[C] | None = None
        self._reading = False
        self._closed = False
        self.completion: Completion | None = None
        """The completion, or the reply, once the last chunk was read."""

    @classmethod
    def of(cls, started: Started[C]) -> AsyncStream[C]:
        """Return the stream of a request that was submitted."""

        async def start() -> Started[C]:
            return started

        return cls(start)

    @property
    def progress(self) -> TextProgress | None:
        """How far the text is; None before its request was submitted."""
        return None if self._started is None else self._started.sequence.progress

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> C:
        if self._reading:
            raise RuntimeError("another task is reading this stream")
        self._reading = True
        try:
            started = self._started
            if started is None:
                if self._closed:
                    raise StopAsyncIteration
                started = await self._begin()
            started.reading.check()
            chunk = await self._next(started)
            if chunk is None:
                raise StopAsyncIteration
            read = started.reading.read(chunk)
            self.completion = read.completion
            return read
        finally:
            self._reading = False

    async def start(self) -> int:
        """Submit the request before the first chunk is asked for, and return the number of tokens of its prompt.

        Raises what is wrong with the request, and RuntimeError for a stream that was closed.
        """
        if self._reading:
            raise RuntimeError("another task is reading this stream")
        if self._closed:
            raise RuntimeError("the stream was closed")
        self._reading = True
        try:
            started = self._started or await self._begin()
        finally:
            self._reading = False
        return started.sequence.n_prompt

    async def _begin(self) -> Started[C]:
        self._started = started = await self._start()
        # A stream that is not read any more must not go on computing in other callers' batches.
        weakref.finalize(self, started.engine.abandon, started.sequence).atexit = False
        if self._closed:
            started.engine.cancel(started.sequence)
        return started

    async def _next(self, started: Started[C]) -> Chunk | None:
        engine, delivery, sequence, _ = started
        while True:
            chunk = engine.poll(sequence)
            if chunk is not None:
                if len(sequence.chunks) < _BEHIND:
                    return chunk
                chunks = [chunk]
                while sequence.chunks:
                    chunks.append(sequence.chunks.popleft())
                return merged(chunks)
            if sequence.done and not sequence.chunks:
                return None
            try:
                await delivery.wait(sequence)
            except BaseException:
                engine.cancel(sequence)
                raise

    @overload
    async def result(self: AsyncStream[ReplyChunk[P]]) -> Reply[P]: ...

    @overload
    async def result(self: AsyncStream[Chunk[P]]) -> Completion[P]: ...

    async def result(self) -> Completion:
        """Read to the end and return the completion."""
        async with self:
            if self._started is None and not self._closed:
                await self.start()
            if self._started is not None:
                self._started.engine.hold(self._started.sequence)
            async for chunk in self:
                if chunk.completion is not None:
                    return chunk.completion
        raise RuntimeError("the stream was read before")

    async def collect(self) -> list[C]:
        """Read to the end and return the chunks."""
        async with self:
            return [chunk async for chunk in self]

    async def aclose(self) -> None:
        """Cancel the request, if it still runs."""
        self._closed = True
        if self._started is not None:
            self._started.engine.cancel(self._started.sequence)


__all__ = ["AsyncStream", "Started"]
