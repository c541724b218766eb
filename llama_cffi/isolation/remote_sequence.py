"""A text that another process generates."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from queue import SimpleQueue
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from llama_cffi.reply.completion import Chunk, TextProgress, Timings

if TYPE_CHECKING:
    from llama_cffi.engine.request import Request
    from llama_cffi.engine.running_sequence import Listener
    from llama_cffi.isolation.link import Link


class RemoteSequence:
    """Stands in for the :class:`RunningSequence` of the other process; one thread adds to it, others read it."""

    def __init__(self, number: int, request: Request, listener: Listener | None) -> None:
        self.number = number
        self.request = request
        self.n_prompt = len(request.prompt)
        self.chunks: deque[Chunk] = deque()
        self.error: BaseException | None = None
        self.done = False
        self.unwanted = False
        self.listeners: tuple[Any, ...] = () if listener is None else (listener,)
        self.link: Link | None = None
        """The process that it was sent to last."""
        self.taken = False
        """Whether the other process has taken the request."""
        self.answer: SimpleQueue[BaseException | None] = SimpleQueue()
        """Whether that is so, for the thread that submits it."""
        self.given = False
        """Whether the caller has got something of it."""
        self.repeatable = False
        """Whether the caller passes nothing on before its end."""
        self.held = False
        """Whether its chunks are kept until its end."""
        self.n_repeats = 0
        seconds = request.max_seconds
        self.deadline = math.inf if seconds is None else monotonic() + seconds
        self._progress = TextProgress(self.n_prompt, 0, 0, 0, Timings(0.0, 0.0, self.n_prompt, 0))
        self._n_tokens = 0
        self._first = 0.0

    def take(self, item: Sequence[Any]) -> None:
        """Add what was sent: the progress, an error, or the fields of a chunk."""
        if len(item) == 2:
            if isinstance(item[1], TextProgress):
                self._progress = item[1]
            else:
                self.fail(item[1])
            return
        _, text, tokens, logprobs, completion = item
        if not self._first:
            self._first = perf_counter()
        self._n_tokens += len(tokens)
        self.chunks.append(Chunk(text, tokens, logprobs, completion))
        if completion is not None:
            self.done = True

    def told(self, progress: TextProgress) -> None:
        """Take how far the prompt is."""
        if not self._first:
            self._progress = progress

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended."""
        if not self.done:
            self.error = error
            self.done = True

    def restart(self) -> None:
        """Forget what has come: it is generated once more."""
        self.chunks.clear()
        self.n_repeats += 1
        self._n_tokens, self._first = 0, 0.0

    def request_now(self) -> Request:
        """Return the request with the time that is left to it."""
        if self.deadline == math.inf:
            return self.request
        return replace(self.request, max_seconds=max(1e-3, self.deadline - monotonic()))

    @property
    def progress(self) -> TextProgress:
        """How far it is, as far as this process knows."""
        known, n = self._progress, self._n_tokens
        if not self._first:
            return known
        timings = replace(known.timings, decode_seconds=perf_counter() - self._first, decode_tokens=max(0, n - 1))
        return replace(known, computed_tokens=self.n_prompt, completion_tokens=n, timings=timings)


__all__ = ["RemoteSequence"]
