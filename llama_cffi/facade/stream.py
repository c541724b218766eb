"""The chunks of one request, as an iterator that cancels when nobody reads it any more."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from llama_cffi.engine.request import Request
from llama_cffi.reply.completion import Chunk

if TYPE_CHECKING:
    from llama_cffi.engine.engine import Engine


class Stream(Iterator[Chunk]):
    """The chunks of one request. Submitted when made, so that a bad request fails at the call."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self._sequence = engine.submit(request)
        self._next = engine.next_chunk
        # A stream that nobody reads any more must not go on computing in other callers' batches.
        weakref.finalize(self, engine.abandon, self._sequence).atexit = False

    def __iter__(self) -> Iterator[Chunk]:
        # A loop calls the engine without a frame of this class in between; see Engine._step.
        following = partial(self._next, self._sequence)
        following.stream = self  # type: ignore[attr-defined]  # what finalizes it must live as long
        return iter(following, None)

    def __next__(self) -> Chunk:
        chunk = self._next(self._sequence)
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Cancel the request. Idempotent."""
        self._engine.cancel(self._sequence)


__all__ = ["Stream"]
