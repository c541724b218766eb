"""The results of a generation: chunks of a text while it is generated, and the finished text."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from llama_cffi.core.prompt import Prompt

if TYPE_CHECKING:
    # What was asked for with schema=, as far as a type checker can tell; bare names stand for any value.
    from typing_extensions import TypeVar

    P = TypeVar("P", covariant=True, default=Any)
else:
    from typing import TypeVar

    P = TypeVar("P", covariant=True)


class FinishReason(str, enum.Enum):
    """Why a completion ended."""

    STOP = "stop"
    """An end-of-generation token, a stop string, pattern or token, or a constraint after which nothing can follow."""
    LENGTH = "length"
    """``max_tokens`` or the end of the context."""
    DEADLINE = "deadline"
    """``max_seconds`` has passed."""
    CANCELLED = "cancelled"
    """The caller cancelled it."""
    TOOL_CALLS = "tool_calls"
    """The reply calls tools and waits for their results."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a generated token under the model, before sampling changed anything."""

    token: int
    piece: bytes
    """The token's bytes."""
    logprob: float
    """Natural logarithm."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at this position with their log-probabilities, the best first."""


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens."""

    prompt_tokens: int
    cached_tokens: int
    """The number of prompt tokens that were reused from memory and not computed again."""
    completion_tokens: int
    reasoning_tokens: int = 0
    """The number of completion tokens that are reasoning, its tags included."""
    host_tokens: int = 0
    """The part of ``cached_tokens`` that was copied back from host memory."""
    disk_tokens: int = 0
    """The part of ``cached_tokens`` that a :class:`PromptCache` read."""


@dataclass(frozen=True)
class Timings:
    """Seconds of wall time."""

    prefill_seconds: float
    """From the start of the request's prefill to its first token."""
    decode_seconds: float
    """From the first token to the end of the generation."""
    prefill_tokens: int
    decode_tokens: int

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens computed per second."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens per second after the first one."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class TextProgress:
    """The progress of a text that is being generated."""

    prompt_tokens: int
    cached_tokens: int
    """The number of prompt tokens that were reused from memory."""
    computed_tokens: int
    """The number of prompt tokens that are in memory now, including ``cached_tokens``."""
    completion_tokens: int
    timings: Timings


@dataclass(frozen=True)
class Speculation:
    """The statistics of the drafts of a completion."""

    drafted_tokens: int
    """The number of drafted tokens."""
    accepted_tokens: int
    """The number of drafted tokens that were accepted, because the model sampled the same tokens."""
    target_decodes: int
    """Decodes of the model after which it chose tokens; without drafts there is one for each token."""

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that was accepted; 0 without drafts."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0


@dataclass(frozen=True)
class Completion(Generic[P]):
    """A finished text. Its type parameter is the type of ``parsed``: ``Completion[Person]``."""

    text: str
    tokens: tuple[int, ...]
    """All generated tokens, those of a stop string included, the end-of-generation or stop token excluded."""
    finish_reason: FinishReason
    stop_sequence: str | int | None
    """The stop string, the text of a stop pattern's match or the stop token that ended the text; None when something
    else did."""
    usage: Usage
    timings: Timings
    seed: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One entry for each of ``tokens``, if requested."""
    parsed: P = None  # type: ignore[assignment]
    """The value of the text, an instance of the type requested with ``schema``; None without one, and for a text that
    was cancelled or is ``incomplete``."""
    prompt: Prompt = field(default=Prompt(), repr=False)
    """The prompt of the text. ``completion.prompt + completion.tokens`` is a prompt that continues the text, any number
    of times, and reuses the computed tokens in memory."""
    speculation: Speculation | None = None
    """Statistics of speculative decoding, if it was on."""
    context_full: bool = False
    """Whether the end of the context cut the text, and not ``max_tokens``."""
    incomplete: bool = False
    """Whether a text that follows a schema, or a call, was cut before it was complete: only with
    ``on_incomplete="return"``."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One entry for each token of the prompt, None for the first, which follows nothing; if requested."""
    sampling: Mapping[str, Any] = field(default_factory=dict, repr=False, kw_only=True)
    """The sampling parameters that the text was generated with, by name, with its seed: those of the call, and for the
    others the defaults of the model's author or of llama.cpp."""
    slot: int | None = field(default=None, kw_only=True)
    """The slot that holds the text in memory; None if it ended before it had one."""

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of the tokens; None without ``logprobs`` or without tokens."""
        if not self.logprobs:
            return None
        return math.fsum(entry.logprob for entry in self.logprobs) / len(self.logprobs)

    def __str__(self) -> str:
        return self.text


# Not frozen: one is made for each token, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Chunk(Generic[P]):
    """A piece of a text that is being generated; ``text`` may be empty while a character or a stop string is open."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    completion: Completion[P] | None = None
    """The whole result, on the last chunk only."""

    @property
    def partial(self) -> Any:
        """The part of the value requested with ``schema`` that the text has so far; None before there is one."""
        return None

    def __str__(self) -> str:
        return self.text


def merged(chunks: Sequence[Chunk]) -> Chunk:
    """Return consecutive chunks as one."""
    logprobs = [entry for chunk in chunks for entry in chunk.logprobs or ()]
    return Chunk(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.tokens),
        tuple(logprobs) if any(chunk.logprobs is not None for chunk in chunks) else None,
        chunks[-1].completion,
    )


__all__ = [
    "Chunk",
    "Completion",
    "FinishReason",
    "Speculation",
    "TextProgress",
    "Timings",
    "TokenLogprob",
    "Usage",
    "merged",
]
