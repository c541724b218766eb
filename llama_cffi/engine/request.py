"""What goes into the engine and what comes out: plain data."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

from llama_cffi.core.seed import check_seed
from llama_cffi.errors import PromptError, SamplerError

if TYPE_CHECKING:
    from llama_cffi.core.adapter import AdapterSet
    from llama_cffi.text.constraint.matcher import Constraint

Overflow = Literal["error", "stop", "shift"]
"""What happens when a sequence has filled the context: raise ContextOverflowError, finish with ``length``, or forget
the older half of the tokens after the prompt's first ones and go on."""

OVERFLOW_POLICIES: tuple[Overflow, ...] = ("error", "stop", "shift")


class FinishReason(str, enum.Enum):
    """Why a completion ended."""

    STOP = "stop"
    """An end-of-generation token, a stop string, or a constraint after which nothing can follow."""
    LENGTH = "length"
    """``max_tokens`` or the end of the context."""
    CANCELLED = "cancelled"
    """The caller stopped it."""

    def __str__(self) -> str:
        return self.value


class SamplingKwargs(TypedDict, total=False):
    """The fields of :class:`SamplingParams` as keyword arguments."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    penalty_last_n: int
    penalty_repeat: float
    penalty_freq: float
    penalty_present: float
    logit_bias: Mapping[int, float]
    grammar: str | None
    grammar_root: str


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. The defaults are llama.cpp's own.

    The order is: logit bias, penalties, grammar, top-k, top-p, min-p, temperature, draw.
    Values out of range raise :class:`SamplerError` at once.
    """

    temperature: float = 0.8
    """0 or less is greedy."""
    top_k: int = 40
    """Keep the k likeliest; 0 or less keeps all."""
    top_p: float = 0.95
    """Keep the smallest set that reaches this probability; 1 keeps all."""
    min_p: float = 0.05
    """Keep tokens at least this many times as likely as the likeliest; 0 keeps all."""
    seed: int | None = None
    """0 to 2**32 - 2; None draws one, which the Completion reports."""
    penalty_last_n: int = 64
    """How many of the last tokens the penalties look at, prompt included."""
    penalty_repeat: float = 1.0
    """Repetition penalty; 1 disables."""
    penalty_freq: float = 0.0
    """Frequency penalty; 0 disables."""
    penalty_present: float = 0.0
    """Presence penalty; 0 disables."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of tokens; ``-inf`` forbids one."""
    grammar: str | None = None
    """A GBNF grammar that the text must follow."""
    grammar_root: str = "root"
    """The grammar's start symbol."""

    def __post_init__(self) -> None:
        for name in ("temperature", "penalty_repeat", "penalty_freq", "penalty_present"):
            if not math.isfinite(getattr(self, name)):
                raise SamplerError(f"{name} must be a finite number, got {getattr(self, name)}")
        for name in ("top_p", "min_p"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SamplerError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not isinstance(self.top_k, int):
            raise SamplerError(f"top_k must be an int, got {self.top_k!r}")
        if not isinstance(self.penalty_last_n, int) or not 0 <= self.penalty_last_n < 2**31:
            raise SamplerError(f"penalty_last_n must not be negative, got {self.penalty_last_n!r}")
        if self.penalty_repeat <= 0:
            raise SamplerError(f"penalty_repeat must be above 0, got {self.penalty_repeat}")
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def has_penalties(self) -> bool:
        """Whether any penalty changes a logit."""
        return self.penalty_last_n != 0 and (
            self.penalty_repeat != 1.0 or self.penalty_freq != 0.0 or self.penalty_present != 0.0
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to generate."""

    tokens: tuple[int, ...]
    """The prompt."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """Most tokens to generate; None goes on until the model ends or the context is full."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    logprobs: int | None = None
    """Report log-probabilities with this many alternatives; None reports none."""
    overflow: Overflow = "stop"
    constraint: Constraint | None = None
    """What the text must look like; besides the sampling's grammar there can be only one."""
    visible: frozenset[int] = frozenset()
    """Control tokens whose text is part of the text; of others nothing is seen."""
    adapters: AdapterSet = ()
    """The adapters to compute with, as :func:`~llama_cffi.core.adapter.adapter_set` gives them."""

    def __post_init__(self) -> None:
        if not self.tokens:
            raise PromptError("the prompt has no tokens, and this model adds no BOS of its own")
        if self.max_tokens is not None and (not isinstance(self.max_tokens, int) or self.max_tokens < 0):
            raise ValueError(f"max_tokens must be None or a number of tokens, got {self.max_tokens!r}")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ValueError(f"stop must be non-empty strings, got {self.stop!r}")
        if self.logprobs is not None and (not isinstance(self.logprobs, int) or self.logprobs < 0):
            raise ValueError(f"logprobs must be None or a number of alternatives, got {self.logprobs!r}")
        if self.constraint is not None and self.sampling.grammar is not None:
            raise SamplerError("a grammar and another constraint cannot both decide what comes next")
        if self.overflow not in OVERFLOW_POLICIES:
            raise ValueError(
                f"overflow must be one of {', '.join(map(repr, OVERFLOW_POLICIES))}, got {self.overflow!r}"
            )


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a generated token under the model, before sampling changed anything."""

    token: int
    piece: bytes
    """The token's bytes."""
    logprob: float
    """Natural logarithm."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place with their log-probabilities, best first."""


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens."""

    prompt_tokens: int
    cached_tokens: int
    """Part of the prompt that was still in memory and not computed again."""
    completion_tokens: int


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
class Completion:
    """A finished text."""

    text: str
    tokens: tuple[int, ...]
    """All generated tokens, those of a stop string included, the end-of-generation token excluded."""
    finish_reason: FinishReason
    stop: str | None
    """The stop string that ended the text, None when something else did."""
    usage: Usage
    timings: Timings
    seed: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One entry for each of ``tokens``, when asked for."""

    def __str__(self) -> str:
        return self.text


# Not frozen: one is made for each token, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Chunk:
    """A piece of a text that is being generated; ``text`` may be empty while a character or a stop string is open."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    completion: Completion | None = None
    """The whole result, on the last chunk only."""

    def __str__(self) -> str:
        return self.text
