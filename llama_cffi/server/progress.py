"""How far the prompts of texts are, told while there is no text yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from llama_cffi.reply.completion import TextProgress

T = TypeVar("T")

_SECONDS = 0.1
"""How often the progress of a prompt is told, at most."""


class Growing(Protocol):
    """A text that is being generated, as :class:`~llama_cffi.AsyncStream` is one."""

    @property
    def progress(self) -> TextProgress | None: ...


class PromptProgress:
    """How far the prompts of some texts are. What was told of a prompt is not told again."""

    def __init__(self, texts: Sequence[Growing], *, wanted: bool) -> None:
        self._texts = texts
        self._began = perf_counter()
        self._told: dict[int, int] = {}
        self._waiting = set(range(len(texts)) if wanted else ())
        """The texts that have not begun, if their progress is ``wanted``."""

    async def with_pauses(self, source: AsyncIterator[T]) -> AsyncGenerator[T | None, None]:
        """Yield what a source does, and None whenever a text has not begun and nothing came for a tenth of a second."""
        task: asyncio.Future[T] | None = None
        try:
            while self._waiting:
                task = task or asyncio.ensure_future(_next(source))
                await asyncio.wait({task}, timeout=_SECONDS)
                if not task.done():
                    yield None
                    continue
                try:
                    item = task.result()
                except StopAsyncIteration:
                    return
                finally:
                    task = None
                yield item
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        async for item in source:
            yield item

    def news(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the progress of the prompts that are further than before, each with the number of its text."""
        return [(i, found) for i in sorted(self._waiting) if (found := self._news_of(i)) is not None]

    def end(self, i: int) -> dict[str, Any] | None:
        """Return the progress of the prompt of a text that has begun; None if there is nothing more to tell."""
        if i not in self._waiting:
            return None
        self._waiting.discard(i)
        return self._news_of(i)

    def _news_of(self, i: int) -> dict[str, Any] | None:
        progress = self._texts[i].progress
        if progress is None:
            return None
        n = progress.prompt_tokens if progress.completion_tokens else progress.computed_tokens
        if not n or self._told.get(i) == n:
            return None
        self._told[i] = n
        return {
            "total": progress.prompt_tokens,
            "cache": progress.cached_tokens,
            "processed": n,
            "time_ms": round((perf_counter() - self._began) * 1000),
        }


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


__all__ = ["Growing", "PromptProgress"]
