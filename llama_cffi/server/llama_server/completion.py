"""POST /completion and /completions: llama-server's own form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi.core.prompt import Prompt
from llama_cffi.reply.completion import Chunk, Completion
from llama_cffi.server.choices import interleaved, with_seed
from llama_cffi.server.llama_server.answers import Text
from llama_cffi.server.llama_server.limits import LimitedStream
from llama_cffi.server.llama_server.prompts import read_prompts, tokenize_parts
from llama_cffi.server.llama_server.request import NativeRequest, read_native
from llama_cffi.server.response import Answer, event, json_answer

if TYPE_CHECKING:
    from llama_cffi.aio.stream import AsyncStream
    from llama_cffi.server.exchange import Call

T = TypeVar("T")

_PROGRESS_SECONDS = 0.1
"""How often the progress of a prompt is told, at most."""


async def completion(call: Call) -> Answer:
    """Go on from prompts."""
    asked = read_native(call, frozenset({"prompt"}))
    llama = call.service.llm.llama

    def work() -> list[list[int]]:
        prompts = read_prompts("prompt", call.body.get("prompt"), call.service.settings.max_prompts)
        return [tokenize_parts(llama, one, add_special=True, parse_special=True) for one in prompts]

    return await answer(call, asked.about(await asyncio.to_thread(work)))


async def answer(call: Call, request: NativeRequest) -> Answer:
    """Generate texts; the answer is a stream, one text, or a list of several."""
    texts = Texts(call, request)
    if request.stream:
        return call.events(texts.events())
    found = await texts.whole()
    return json_answer(found[0] if len(found) == 1 else found)


class Texts:
    """The texts of a request while they are generated."""

    def __init__(self, call: Call, request: NativeRequest) -> None:
        llm, form = call.service.llm, request.form
        self._request = request
        self._began = perf_counter()
        prompts = [(one, i) for one in request.prompts for i in range(request.n)]
        self._streams: list[AsyncStream[Chunk]] = [
            llm.stream(Prompt(prompt), **with_seed(request.options, i)) for prompt, i in prompts
        ]
        vocab = llm.llama.model.vocab
        self._texts = [Text(i, prompt, form, call.model, vocab) for i, (prompt, _) in enumerate(prompts)]

    def _chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        limits, streams = self._request.limits, self._streams
        if not limits:
            return interleaved(streams, self._request.own_limit)
        return interleaved([LimitedStream(one, limits) for one in streams], self._request.own_limit)

    async def whole(self) -> list[dict[str, Any]]:
        """Return all answers when they are ready."""
        found: dict[int, Completion] = {}
        async with aclosing(self._chunks()) as chunks:  # type: ignore[type-var]
            async for i, chunk in chunks:
                if chunk.completion is not None:
                    found[i] = chunk.completion
        return [text.whole(found[i], streamed=False) for i, text in enumerate(self._texts)]

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield pieces as they come; the last one of each text is its answer, without the text."""
        seconds = _PROGRESS_SECONDS if self._request.form.return_progress else None
        told: dict[int, int] = {}
        chunks = self._chunks()
        async with aclosing(chunks), aclosing(with_pauses(chunks, seconds)) as each:  # type: ignore[type-var]
            async for item in each:
                found = self._progress(told) if item is None else self._pieces(*item)
                if found:
                    yield b"".join(map(event, found))

    def _pieces(self, i: int, chunk: Chunk) -> list[dict[str, Any]]:
        """Return what a chunk adds to its text."""
        text, end = self._texts[i], chunk.completion
        found = []
        if chunk.text or chunk.tokens:
            found.append(text.piece(chunk, self._streams[i].progress))
        if end is not None:
            found.append(text.whole(end, streamed=True))
        return found

    def _progress(self, told: dict[int, int]) -> list[dict[str, Any]]:
        """Return the progress of the prompts that are further than what was ``told`` of them."""
        found = []
        for i, stream in enumerate(self._streams):
            progress = stream.progress
            if progress is None or progress.completion_tokens or not progress.computed_tokens:
                continue
            if told.get(i) != progress.computed_tokens:
                told[i] = progress.computed_tokens
                found.append(self._texts[i].progress(progress, perf_counter() - self._began))
        return found


async def with_pauses(source: AsyncIterator[T], seconds: float | None) -> AsyncGenerator[T | None, None]:
    """Yield what a source does, and None whenever nothing came for so long. Without a time there are no pauses."""
    if seconds is None:
        async for item in source:
            yield item
        return
    task: asyncio.Future[T] | None = None
    try:
        while True:
            task = task or asyncio.ensure_future(_next(source))
            await asyncio.wait({task}, timeout=seconds)
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


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


__all__ = ["answer", "completion", "with_pauses"]
