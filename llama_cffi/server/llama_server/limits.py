"""Ends of a text that llama-server has and the engine has not: times of its two phases, and a smaller indentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from llama_cffi.reply.completion import Chunk, Completion, FinishReason

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from llama_cffi.aio.stream import AsyncStream

_TIMES_FOR_LINE = 2.0
"""A line may be finished within this many times the time of a text."""


@dataclass(frozen=True)
class Limits:
    """What ends a text early. The default ends none."""

    prompt_seconds: float | None = None
    """From the request to the first token; then the text is empty."""
    predict_seconds: float | None = None
    """From the first token on."""
    whole_lines: bool = False
    """Whether a line is finished after ``predict_seconds``, which may take as long again."""
    n_indent: int = 0
    """A line after the first whose text is indented by fewer blanks ends the text, and is not part of it."""

    def __bool__(self) -> bool:
        return self != Limits()


class Indentation:
    """Gives out a text line by line as far as its lines are indented enough.

    What follows a newline is held back until something else than blanks comes.
    """

    def __init__(self, n_indent: int) -> None:
        self.ended = False
        """Whether a line was not; nothing is given out after it."""
        self._n_indent = n_indent
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what is known to belong to the text."""
        if self.ended:
            return ""
        text = self._held + text
        start = 0
        while (newline := text.find("\n", start)) >= 0:
            line = text[newline + 1 :]
            inner = line.lstrip(" \t")
            if not inner:
                self._held = text[newline:]
                return text[:newline]
            n = len(line) - len(inner)
            if n < self._n_indent and inner[0] not in "\r\n":
                self.ended, self._held = True, ""
                return text[: newline + 1 + n]
            start = newline + 1
        self._held = ""
        return text

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


class LimitedStream(AsyncIterator[Chunk]):
    """The chunks of a stream as far as limits let it go on. Its completion says ``length`` where they ended it."""

    def __init__(self, stream: AsyncStream[Chunk], limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._stream = stream
        self._limits = limits
        self._clock = clock
        self._lines = Indentation(limits.n_indent) if limits.n_indent else None
        self._first: float | None = None
        self._text: list[str] = []
        self._n_tokens = 0
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        if self._limits.prompt_seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(self._limits.prompt_seconds, self._end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._stream.__aexit__(kind, error, traceback)

    def _end(self) -> None:
        self._ended = True
        self._closing = asyncio.ensure_future(self._stream.aclose())

    async def __anext__(self) -> Chunk:
        async for chunk in self._stream:
            if self._ended:  # what came after the end is no part of the text
                if chunk.completion is not None:
                    return Chunk("", (), None, self._cut(chunk.completion))
                continue
            return self._read(chunk)
        raise StopAsyncIteration

    def _read(self, chunk: Chunk) -> Chunk:
        if self._timer is not None:
            self._timer.cancel()
        text, lines, end = chunk.text, self._lines, chunk.completion
        late = end is None and self._is_late(text)
        if lines is not None:
            text = lines.feed(text)
            if late or end is not None:
                text += lines.flush()
        self._text.append(text)
        self._n_tokens += len(chunk.tokens)
        if lines is not None and lines.ended and end is not None:
            end = self._cut(end)
        elif late or (lines is not None and lines.ended):
            self._end()
        return replace(chunk, text=text, completion=end)

    def _is_late(self, text: str) -> bool:
        most = self._limits.predict_seconds
        if most is None:
            return False
        now = self._clock()
        self._first = now if self._first is None else self._first
        seconds = now - self._first
        if self._limits.whole_lines and "\n" not in text:
            return seconds > _TIMES_FOR_LINE * most
        return seconds > most

    def _cut(self, completion: Completion) -> Completion:
        n, logprobs = self._n_tokens, completion.logprobs
        return replace(
            completion,
            text="".join(self._text),
            tokens=completion.tokens[:n],
            finish_reason=FinishReason.LENGTH,
            stop_sequence=None,
            usage=replace(completion.usage, completion_tokens=n),
            logprobs=None if logprobs is None else logprobs[:n],
            parsed=None,
            context_full=False,
        )


__all__ = ["Indentation", "LimitedStream", "Limits"]
