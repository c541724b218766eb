"""The input of the engine: one text to generate, as plain data."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from llama_cffi._util.arguments import optional_seconds
from llama_cffi._util.scalars import as_int, is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.errors import ContextOverflowError, PromptError, SamplerError, UnsupportedError
from llama_cffi.reply.stop_patterns import make_stops

if TYPE_CHECKING:
    from llama_cffi.engine.drafters import DraftSource
    from llama_cffi.grammar.matcher import Constraint

Overflow = Literal["error", "stop", "shift"]
"""What happens when a sequence has filled the context: raise ContextOverflowError, finish with ``length``, or forget
the older half of the tokens after the prompt's first ones and go on."""

OVERFLOW_POLICIES: tuple[Overflow, ...] = ("error", "stop", "shift")

MAX_PRIORITY = 100
"""The largest absolute value of a priority."""

Stop = str | int | re.Pattern[str]
"""A string, a token, or a regular expression (:class:`~llama_cffi.reply.stop_patterns.PatternMatcher`)."""


class Room(Protocol):
    """What decides whether a request can be served; see :class:`~llama_cffi.engine.runner.Runner`."""

    @property
    def n_batch(self) -> int: ...
    @property
    def n_ubatch(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def can_shift(self) -> bool: ...
    @property
    def n_seq_max(self) -> int: ...
    @property
    def decoder_start(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to generate."""

    prompt: Prompt
    """The prompt to continue."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """The most tokens to generate; with None, until the model ends the text or the context is full."""
    max_seconds: float | None = None
    """Seconds from the submission after which the text ends as it is, also during its prefill."""
    stop: tuple[Stop, ...] = ()
    """The stop conditions, which are not part of the text."""
    echo: str = ""
    """A text that is put before the generated text."""
    healed: str = ""
    """The beginning of the generated text that the constraint enforces; it is part of the prompt, not of the text."""
    logprobs: int | None = None
    """Report log-probabilities with this many alternatives; None reports none."""
    post_sampling_logprobs: bool = False
    """Report the log-probabilities after all samplers, instead of the model's own."""
    prompt_logprobs: int | None = None
    """Report log-probabilities of the prompt's tokens, too, with this many alternatives. All of the prompt is computed
    then, also what is in memory."""
    overflow: Overflow = "stop"
    constraint: Constraint | None = None
    """The constraint of the text; it cannot be combined with the grammar of the sampling parameters."""
    speculative: DraftSource | None = None
    """The draft source of speculative decoding; the text does not depend on it."""
    visible: frozenset[int] = frozenset()
    """Control tokens whose text is part of the generated text; others have no text."""
    conditioning: Conditioning = PLAIN
    """The adapters and the control vector to compute with."""
    priority: int = 0
    """The urgency, -100 to 100: of the waiting requests, that with the lowest number is computed first."""
    reuse: bool = True
    """Whether it reuses what others have computed, and keeps what it computes for others."""
    slot: int | None = None
    """The slot to use, if it is idle."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise PromptError("the prompt has no tokens, and this model adds no BOS")
        if self.max_tokens is not None and not is_int(self.max_tokens, 0, sys.maxsize):
            raise ValueError(f"max_tokens must be None or a number of tokens, got {shown(self.max_tokens)}")
        object.__setattr__(self, "max_seconds", optional_seconds("max_seconds", self.max_seconds))
        for stop in self.stop:
            if (as_int(stop) is None and not isinstance(stop, (str, re.Pattern))) or stop == "":
                raise ValueError(f"stop must be non-empty strings, tokens or compiled patterns, got {shown(stop)}")
        make_stops([stop for stop in self.stop if isinstance(stop, re.Pattern)])
        for name in ("logprobs", "prompt_logprobs"):
            number = getattr(self, name)
            if number is not None and not is_int(number, 0, sys.maxsize):
                raise ValueError(f"{name} must be None or a number of alternatives, got {shown(number)}")
        if self.post_sampling_logprobs and self.logprobs is None:
            raise ValueError("post_sampling_logprobs=True needs logprobs=")
        if self.prompt_logprobs is not None and self.prompt.media:
            raise UnsupportedError("prompt_logprobs: media have no log-probabilities")
        if not is_int(self.priority, -MAX_PRIORITY, MAX_PRIORITY):
            raise ValueError(
                f"priority must be an int from {-MAX_PRIORITY} to {MAX_PRIORITY}, lower is sooner, "
                f"got {shown(self.priority)}"
            )
        if self.slot is not None and not is_int(self.slot, 0):
            raise ValueError(f"slot must be None or the number of a slot, got {shown(self.slot)}")
        # numpy's integers become Python's: some are small, and wrap around when they are added up.
        for name in ("max_tokens", "logprobs", "prompt_logprobs", "priority", "slot"):
            object.__setattr__(self, name, as_int(getattr(self, name)))
        stops = tuple(stop if isinstance(stop, (str, re.Pattern)) else int(stop) for stop in self.stop)
        object.__setattr__(self, "stop", stops)
        if self.constraint is not None and self.sampling.grammar is not None:
            raise SamplerError("a grammar and another constraint cannot be used together")
        if self.overflow not in OVERFLOW_POLICIES:
            raise ValueError(
                f"overflow must be one of {', '.join(map(repr, OVERFLOW_POLICIES))}, got {shown(self.overflow)}"
            )

    def check_fits(self, room: Room) -> None:
        """Raise :class:`ContextOverflowError` or :class:`UnsupportedError` when a context cannot serve this request."""
        n_ctx, n_prompt = room.n_ctx, len(self.prompt)
        if room.decoder_start is not None:
            self._check_encoder(room.n_ubatch)
            n_prompt = 1
        if n_prompt > n_ctx:
            raise ContextOverflowError(f"the prompt has {n_prompt} tokens; the context has room for {n_ctx}")
        if self.slot is not None and self.slot >= room.n_seq_max:
            raise ValueError(f"slot must be 0 to {room.n_seq_max - 1}, got {self.slot}")
        if self.overflow == "error" and self.max_tokens is not None and n_prompt + self.max_tokens > n_ctx:
            raise ContextOverflowError(
                f"{n_prompt} prompt tokens and max_tokens={self.max_tokens} do not fit a context of {n_ctx}"
            )
        if self.overflow == "shift" and not room.can_shift:
            raise UnsupportedError('overflow="shift": the memory of this model cannot shift positions')
        if self.overflow == "shift" and self.prompt.media:
            raise UnsupportedError('overflow="shift": the positions of media cannot be shifted')

    def _check_encoder(self, most: int) -> None:
        """Raise what is wrong with a request whose prompt an encoder reads."""
        if self.prompt_logprobs is not None:
            raise UnsupportedError("prompt_logprobs: an encoder reads the prompt, and predicts no tokens of it")
        if self.healed:
            raise UnsupportedError("heal: an encoder reads the prompt, and the text does not go on from its end")
        if len(self.prompt) > most:
            raise ContextOverflowError(
                f"the prompt has {len(self.prompt)} tokens; the encoder reads at most n_ubatch={most}"
            )


__all__ = ["MAX_PRIORITY", "OVERFLOW_POLICIES", "Overflow", "Request", "Stop"]
