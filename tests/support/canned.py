"""Replies whose chunks are given: what no small model writes when it is asked, as reasoning before calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_cffi.reply.completion import FinishReason, Timings, Usage
from llama_cffi.reply.reply import Reply, ReplyChunk, ToolCall, ToolCallDelta

N_PROMPT, N_CACHED, N_THOUGHT = 20, 15, 3


class Canned:
    """A stream of a reply in place of AsyncLlama's; an exception among the chunks is raised."""

    def __init__(self, chunks: Sequence[ReplyChunk | Exception]) -> None:
        self._chunks = list(chunks)

    async def start(self) -> int:
        return N_PROMPT

    def __aiter__(self) -> Canned:
        return self

    async def __anext__(self) -> ReplyChunk:
        if not self._chunks:
            raise StopAsyncIteration
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        self._chunks.clear()

    async def __aenter__(self) -> Canned:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def thought(text: str) -> ReplyChunk:
    return ReplyChunk("", (1,), reasoning=text)


def said(text: str) -> ReplyChunk:
    return ReplyChunk(text, (1,))


def called(index: int, name: str, arguments: str = "") -> ReplyChunk:
    return ReplyChunk("", (1,), tool_calls=(ToolCallDelta(index, f"id{index}", name, arguments),))


def ended(chunks: Sequence[ReplyChunk], reason: FinishReason, *calls: ToolCall, **more: Any) -> list[ReplyChunk]:
    """Return the chunks, and a last one with the reply that they come to."""
    text, reasoning = "".join(one.text for one in chunks), "".join(one.reasoning for one in chunks)
    usage = Usage(N_PROMPT, N_CACHED, len(chunks), N_THOUGHT)
    about: dict[str, Any] = {"usage": usage, "timings": Timings(0, 0, 0, 0), "seed": 0, "stop_sequence": None, **more}
    reply = Reply(text, (1,) * len(chunks), reason, reasoning=reasoning, tool_calls=calls, **about)
    return [*chunks, ReplyChunk("", completion=reply)]


def everything() -> list[ReplyChunk]:
    """A reply that thinks, speaks and calls twice."""
    chunks = [
        *(thought("Let me "), thought("think."), said("I will "), said("look.")),
        *(called(0, "weather"), called(0, "weather", '{"city": '), called(0, "weather", '"Rome"}')),
        called(1, "clock", "{}"),
    ]
    calls = ToolCall("id0", "weather", {"city": "Rome"}), ToolCall("id1", "clock", {})
    return ended(chunks, FinishReason.TOOL_CALLS, *calls)
