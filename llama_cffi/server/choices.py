"""Several texts that are generated together for one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llama_cffi._util.seed import MAX_SEED
from llama_cffi.reply.completion import Chunk, FinishReason
from llama_cffi.server.facts import note_end
from llama_cffi.server.problem import Problem

if TYPE_CHECKING:
    from types import TracebackType

C = TypeVar("C", bound=Chunk)
C_co = TypeVar("C_co", bound=Chunk, covariant=True)


class TextStream(Protocol[C_co]):
    """The chunks of one text, as :class:`~llama_cffi.AsyncStream` has them; leaving the block cancels it."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[C_co]: ...


def with_seed(options: dict[str, Any], i: int) -> dict[str, Any]:
    """Return the options of text number i: its seed is the first one's plus i."""
    seed = options.get("seed")
    return options if seed is None or not i else {**options, "seed": (seed + i) % (MAX_SEED + 1)}


async def interleaved(streams: Sequence[TextStream[C]], own_limit: bool) -> AsyncIterator[tuple[int, C]]:
    """Yield the chunks of all streams as they come, each with the number of its stream.

    ``own_limit`` says that the time limit is the server's own: :class:`Problem` 504 where it passed before there was
    any text. What fails ends all of them, and so does closing.
    """
    async with AsyncExitStack() as stack:
        for stream in streams:
            await stack.enter_async_context(stream)
        if len(streams) == 1:
            async for chunk in streams[0]:
                _check(chunk, own_limit)
                yield 0, chunk
            return
        queue: asyncio.Queue[tuple[int, C] | int] = asyncio.Queue()

        async def read(i: int) -> None:
            try:
                async for chunk in streams[i]:
                    queue.put_nowait((i, chunk))
            finally:
                queue.put_nowait(i)

        tasks = [asyncio.ensure_future(read(i)) for i in range(len(streams))]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if isinstance(item, int):
                    left -= 1
                    await tasks[item]
                else:
                    _check(item[1], own_limit)
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _check(chunk: Chunk, own_limit: bool) -> None:
    end = chunk.completion
    if end is None:
        return
    note_end(end)
    if own_limit and end.finish_reason is FinishReason.DEADLINE and not end.tokens:
        raise Problem(504, "the request took too long before its first token", code="request_timeout")
    if end.finish_reason is FinishReason.CANCELLED:
        raise Problem(503, "the server is shutting down", code="shutting_down")


__all__ = ["TextStream", "interleaved", "with_seed"]
