"""The result of preparation: a request for the engine, and the reader of its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.errors import PromptError, TokenError, TokenizeError
from llama_cffi.reply.completion import Chunk

if TYPE_CHECKING:
    from llama_cffi.engine.drafters import DraftSource
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.request import Overflow, Request
    from llama_cffi.engine.running_sequence import Listener, RunningSequence
    from llama_cffi.reply.reader import Reader

C = TypeVar("C", bound=Chunk)


@dataclass(frozen=True)
class Prepared(Generic[C]):
    """One text, ready to be computed and read, once."""

    request: Request
    reader: Reader[C] | None
    """None when the chunks are what they are."""
    place: str = ""
    """The index of the prompt in a list, for errors; "" for a single prompt."""

    def submit(self, engine: Engine, listener: Listener | None = None) -> RunningSequence:
        """Queue the request; raises the errors of :meth:`Engine.submit`."""
        with placed(self.place):
            return engine.submit(self.request, listener)


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Put the index of a prompt before the message of its error."""
    try:
        yield
    except (PromptError, TokenError, TokenizeError) as error:
        if place:
            error.message = f"{place}: {error.message}"
        raise


@dataclass(frozen=True)
class Defaults:
    """The defaults of calls."""

    overflow: Overflow = "stop"
    conditioning: Conditioning = PLAIN
    drafts: DraftSource | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of SamplingParams that the author of the model recommends."""


__all__ = ["Defaults", "Prepared", "placed"]
