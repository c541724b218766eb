"""What one pass of preparation gives: a request for the engine, and the reader of its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.reply.completion import Chunk

if TYPE_CHECKING:
    from llama_cffi.engine.drafters import DraftSource
    from llama_cffi.engine.request import Overflow, Request
    from llama_cffi.reply.reader import Reader

C = TypeVar("C", bound=Chunk)


@dataclass(frozen=True)
class Prepared(Generic[C]):
    """One text, ready to be computed and read, once."""

    request: Request
    reader: Reader[C] | None
    """None when the chunks are what they are."""


@dataclass(frozen=True)
class Defaults:
    """What a call gets that does not say otherwise."""

    overflow: Overflow = "stop"
    conditioning: Conditioning = PLAIN
    drafts: DraftSource | None = None


__all__ = ["Defaults", "Prepared"]
