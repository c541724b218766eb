"""POST /completion and /completions: llama-server's own form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llama_cffi.core.prompt import Prompt
from llama_cffi.reply.completion import Chunk, Completion
from llama_cffi.server.choices import interleaved, with_seed
from llama_cffi.server.llama_server.answers import Text
from llama_cffi.server.llama_server.limits import LimitedStream
from llama_cffi.server.llama_server.prompts import make_prompt, read_prompts
from llama_cffi.server.llama_server.request import NativeRequest, read_native
from llama_cffi.server.progress import PromptProgress
from llama_cffi.server.response import Answer, event, json_answer

if TYPE_CHECKING:
    from llama_cffi.aio.stream import AsyncStream
    from llama_cffi.server.exchange import Call


async def completion(call: Call) -> Answer:
    """Go on from prompts."""
    asked = read_native(call, frozenset({"prompt"}))
    llama = call.service.llm.llama

    def work() -> list[Prompt]:
        limit, media = call.service.settings.max_prompts, call.media is not None
        prompts = read_prompts("prompt", call.body.get("prompt"), limit, media=media)
        return [make_prompt(llama, one, parse_special=True) for one in prompts]

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
        prompts = [(one, i) for one in request.prompts for i in range(request.n)]
        self._streams: list[AsyncStream[Chunk]] = [
            llm.stream(Prompt(prompt), **with_seed(request.options, i)) for prompt, i in prompts
        ]
        vocab = llm.llama.model.vocab
        self._texts = [Text(i, prompt, form, call.model, vocab) for i, (prompt, _) in enumerate(prompts)]
        self._progress = PromptProgress(self._streams, wanted=form.return_progress)

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
        chunks, progress = self._chunks(), self._progress
        async with aclosing(chunks), aclosing(progress.with_pauses(chunks)) as each:  # type: ignore[type-var]
            async for item in each:
                if item is None:
                    found = [self._texts[i].progress(news) for i, news in progress.news()]
                else:
                    found = self._pieces(*item)
                if found:
                    yield b"".join(map(event, found))

    def _pieces(self, i: int, chunk: Chunk) -> list[dict[str, Any]]:
        """Return what a chunk adds to its text."""
        text, end = self._texts[i], chunk.completion
        found = []
        if (told := self._progress.end(i)) is not None:
            found.append(text.progress(told))
        if chunk.text or chunk.tokens:
            found.append(text.piece(chunk, self._streams[i].progress))
        if end is not None:
            found.append(text.whole(end, streamed=True))
        return found


__all__ = ["answer", "completion"]
