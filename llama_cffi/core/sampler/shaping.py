"""Samplers that change logits and keep every token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_cffi._native import atomic, ffi, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._util import ranges
from llama_cffi._util.scalars import is_int
from llama_cffi.core.options import named_call
from llama_cffi.core.sampler.base import Sampler
from llama_cffi.core.vocab import VocabType
from llama_cffi.errors import SamplerError, TokenError

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab


@dataclass(frozen=True)
class Temperature(Sampler):
    """Divide the logits by t; t <= 0 keeps only the largest. Wraps ``llama_sampler_init_temp``."""

    t: float

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_temp, ranges.finite("temperature", self.t))


@dataclass(frozen=True)
class DynamicTemperature(Sampler):
    """Divide the logits by a temperature that follows the entropy. Wraps ``llama_sampler_init_temp_ext``.

    From ``t - range`` (0 at least), where one token is certain, to ``t + range``, where all are equally likely. A
    range of 0 is :class:`Temperature`.
    """

    t: float
    range: float
    exponent: float = 1.0
    """Power of the entropy, as a part of the largest possible, that the temperature follows."""

    def create(self, vocab: Vocab, cell: Cell) -> None:
        t = ranges.finite("temperature", self.t)
        spread = ranges.not_negative("dynatemp_range", self.range)
        exponent = ranges.not_negative("dynatemp_exponent", self.exponent)
        ranges.finite("temperature + dynatemp_range", t + spread)
        atomic.keep(cell, lib.llama_sampler_init_temp_ext, t, spread, exponent)


@dataclass(frozen=True)
class Penalties(Sampler):
    """Make recently accepted tokens less likely. Wraps ``llama_sampler_init_penalties``."""

    last_n: int = 64
    """The number of last accepted tokens that count; 0 disables."""
    repeat: float = 1.0
    """Divides positive and multiplies negative logits; 1.0 disables."""
    freq: float = 0.0
    """Subtracted once for each occurrence of the token."""
    present: float = 0.0
    """Subtracted once if the token occurs."""

    @property
    def history(self) -> int:
        return self.last_n

    def create(self, vocab: Vocab, cell: Cell) -> None:
        function, *args = named_call(
            "llama_sampler_init_penalties",
            n_vocab=vocab.n_tokens,
            penalty_last_n=ranges.count("penalty_last_n", self.last_n, high=ranges.MAX_HISTORY),
            penalty_repeat=ranges.positive("penalty_repeat", self.repeat),
            penalty_freq=ranges.finite("penalty_freq", self.freq),
            penalty_present=ranges.finite("penalty_present", self.present),
        )
        atomic.keep(cell, function, *args)


@dataclass(frozen=True)
class Dry(Sampler):
    """Make tokens less likely that would continue a repetition. Wraps ``llama_sampler_init_dry``.

    A token that followed an earlier occurrence of the text's last n tokens loses ``multiplier * base ** (n -
    allowed_length)``, for the largest n of at least ``allowed_length``. A breaker ends a repetition. Creating this
    sampler reads every token of the vocabulary, once for each breaker.

    Raises :class:`SamplerError` for a model without a tokenizer.
    """

    multiplier: float
    """0 disables."""
    base: float = 1.75
    """At least 1."""
    allowed_length: int = 2
    last_n: int = 64
    """The number of last accepted tokens that are searched; 0 disables."""
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """Texts of at most 40 bytes."""

    @property
    def history(self) -> int:
        return self.last_n

    def create(self, vocab: Vocab, cell: Cell) -> None:
        if vocab.type is VocabType.NONE:
            raise SamplerError("DRY reads the text of tokens, and this model has no tokenizer")
        last_n = ranges.count("dry_penalty_last_n", self.last_n, high=ranges.MAX_HISTORY)
        texts = [ffi.new("char[]", text) for text in ranges.breakers(self.breakers)]
        function, *args = named_call(
            "llama_sampler_init_dry",
            vocab=vocab.ptr,
            n_ctx_train=ranges.count(
                "dry_penalty_last_n", self.last_n, high=ranges.MAX_HISTORY
            ),  # older libraries look back no further than this
            dry_multiplier=ranges.not_negative("dry_multiplier", self.multiplier),
            dry_base=ranges.between("dry_base", ranges.finite("dry_base", self.base), 1, math.inf),
            dry_allowed_length=ranges.count("dry_allowed_length", self.allowed_length),
            dry_penalty_last_n=last_n,
            seq_breakers=ffi.new("char *[]", texts),
            num_breakers=len(texts),
        )
        atomic.keep(cell, function, *args)


@dataclass(frozen=True)
class LogitBias(Sampler):
    """Add to the logits of some tokens; ``-inf`` forbids one. Wraps ``llama_sampler_init_logit_bias``."""

    bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def forbids(self) -> bool:
        """Whether it forbids any token."""
        return any(value == -math.inf for value in self.bias.values())

    def create(self, vocab: Vocab, cell: Cell) -> None:
        entries = ffi.new("llama_logit_bias[]", len(self.bias))
        for entry, (token, bias) in zip(entries, self.bias.items(), strict=True):
            if not is_int(token, 0, vocab.n_tokens - 1):
                raise TokenError(f"logit_bias: token {token!r} is outside the vocabulary of {vocab.n_tokens} tokens")
            entry.token, entry.bias = token, ranges.bias(token, bias)
        atomic.keep(cell, lib.llama_sampler_init_logit_bias, vocab.n_tokens, len(self.bias), entries)


__all__ = ["Dry", "DynamicTemperature", "LogitBias", "Penalties", "Temperature"]
