"""Ends of a text beside those of the engine: a smaller indentation, and times of its phases, with a clock of the test's
own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_cffi.reply.completion import Chunk, Completion, FinishReason, Timings, Usage

pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

TEXTS = st.text("ab \t\n", max_size=30)


def judged(text: str, n_indent: int) -> tuple[str, bool]:
    """What belongs to a whole text, and whether it ends early: said line by line."""
    first, *lines = text.split("\n")
    found = first
    for line in lines:
        words = line.lstrip(" \t")
        n = len(line) - len(words)
        if words and n < n_indent:
            return f"{found}\n{line[:n]}", True
        found += f"\n{line}"
    return found, False


@given(TEXTS, st.integers(0, 4), st.lists(st.integers(0, 30), max_size=6))
@example("a\n\n  b\nc", 2, [])
def test_an_indentation_is_the_same_however_the_text_comes(text: str, n_indent: int, cuts: list[int]) -> None:
    from llama_cffi.server.llama_server.limits import Indentation

    lines = Indentation(n_indent)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    found = "".join(lines.feed(text[a:b]) for a, b in pairwise(places)) + lines.flush()
    assert (found, lines.ended) == judged(text, n_indent)


class FakeStream:
    """Gives the pieces of a text, one token each, until it is closed; then its completion."""

    def __init__(self, texts: Sequence[str], waits: bool = False) -> None:
        self._texts = list(texts)
        self._given: list[str] = []
        self._waits = waits
        self._end = asyncio.Event()

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._waits:
            await self._end.wait()
        closed = self._end.is_set()
        if self._texts is None:
            raise StopAsyncIteration
        if not closed and len(self._texts) > 1:
            self._given.append(self._texts.pop(0))
            return Chunk(self._given[-1], (5,))
        reason = FinishReason.CANCELLED if closed else FinishReason.LENGTH
        text = "" if closed else self._texts[0]
        self._given += [text] if text else []
        self._texts = None  # type: ignore[assignment]
        whole, n = "".join(self._given), len(self._given)
        usage, times = Usage(3, 0, n), Timings(0.0, 0.0, 3, n)
        end: Completion = Completion(whole, (5,) * n, reason, None, usage, times, 1)
        return Chunk(text, (5,) if text else (), None, end)

    async def aclose(self) -> None:
        self._end.set()

    async def __aenter__(self) -> FakeStream:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()


def read(texts: Sequence[str], times: Sequence[float] = (), *, waits: bool = False, **limits: Any) -> tuple[str, Any]:
    """The text of the chunks, and the completion; each chunk comes at its time."""
    from llama_cffi.server.llama_server.limits import LimitedStream, Limits

    clock = iter(times)
    last = [0.0]

    def now() -> float:
        last[0] = next(clock, last[0])
        return last[0]

    async def main() -> tuple[str, Any]:
        stream: Any = FakeStream(texts, waits)
        async with LimitedStream(stream, Limits(**limits), now) as limited:
            chunks = [chunk async for chunk in limited]
        assert all(chunk.completion is None for chunk in chunks[:-1])
        return "".join(chunk.text for chunk in chunks), chunks[-1].completion

    return asyncio.run(asyncio.wait_for(main(), 10))


def test_a_smaller_indentation_ends_the_text() -> None:
    text, end = read(["def f():", "\n", "    ", "return 1", "\n", "def", " g"], n_indent=4)
    assert text == end.text == "def f():\n    return 1\n"
    assert (end.finish_reason, end.usage.completion_tokens, len(end.tokens)) == (FinishReason.LENGTH, 6, 6)


def test_a_text_that_keeps_to_it_is_whole() -> None:
    texts = ["a", "\n", "  b", "\n", "  "]
    text, end = read(texts, n_indent=2)
    assert text == end.text == "".join(texts)
    assert end.usage.completion_tokens == 5


def test_a_time_ends_the_text() -> None:
    text, end = read(["a", "b", "c", "d"], [0.0, 0.5, 1.5], predict_seconds=1.0)
    assert text == end.text == "abc"
    assert end.finish_reason is FinishReason.LENGTH


def test_a_line_is_finished_when_there_is_time() -> None:
    times = [0.0, 0.0, 1.5, 1.6]
    text, _ = read(["a", "b", "c\n", "d"], times, predict_seconds=1.0, whole_lines=True)
    assert text == "abc\n"
    text, _ = read(["a", "b", "c", "d", "e"], [0.0, 0.0, 1.5, 2.1], predict_seconds=1.0, whole_lines=True)
    assert text == "abcd"


def test_no_token_in_time_is_an_empty_text() -> None:
    text, end = read(["a", "b"], waits=True, prompt_seconds=0.001)
    assert (text, end.text, end.tokens) == ("", "", ())
    assert end.finish_reason is FinishReason.LENGTH
