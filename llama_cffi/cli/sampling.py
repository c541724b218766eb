"""The options of choosing tokens, which ``generate`` and ``chat`` have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cffi
from llama_cffi.cli import arguments, options

if TYPE_CHECKING:
    from llama_cffi import Llama


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling options that a command takes."""

    temperature: options.Temperature = None
    top_k: options.TopK = None
    top_p: options.TopP = None
    min_p: options.MinP = None
    seed: options.Seed = -1
    repeat_last_n: options.RepeatLastN = None
    repeat_penalty: options.RepeatPenalty = None
    presence_penalty: options.PresencePenalty = 0.0
    frequency_penalty: options.FrequencyPenalty = 0.0
    top_n_sigma: options.TopNSigma = -1.0
    xtc_probability: options.XtcProbability = None
    xtc_threshold: options.XtcThreshold = None
    typical: options.Typical = 1.0
    dynatemp_range: options.DynatempRange = 0.0
    dynatemp_exp: options.DynatempExp = 1.0
    mirostat: options.Mirostat = None
    mirostat_lr: options.MirostatLr = None
    mirostat_ent: options.MirostatEnt = None
    dry_multiplier: options.DryMultiplier = 0.0
    dry_base: options.DryBase = 1.75
    dry_allowed_length: options.DryAllowedLength = 2
    dry_penalty_last_n: options.DryPenaltyLastN = 64
    dry_sequence_breaker: options.DrySequenceBreaker = None
    adaptive_target: options.AdaptiveTarget = -1.0
    adaptive_decay: options.AdaptiveDecay = 0.9
    samplers: options.Samplers = None
    model_sampling: options.ModelSampling = True
    logit_bias: options.LogitBias = None
    ignore_eos: options.IgnoreEos = False

    def given(self, **more: Any) -> dict[str, Any]:
        """Return the sampling parameters that were given, and ``more``.

        ``typer.BadParameter`` for wrong usage, :class:`SamplerError` for wrong values.
        """
        fields: dict[str, Any] = {
            "temperature": None if self.temperature is None else max(self.temperature, 0.0),
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": seed_of(self.seed),
            "repeat_last_n": self.repeat_last_n,
            "repeat_penalty": self.repeat_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "top_n_sigma": self.top_n_sigma,
            "xtc_probability": self.xtc_probability,
            "xtc_threshold": self.xtc_threshold,
            "typical_p": self.typical,
            "dynatemp_range": self.dynatemp_range,
            "dynatemp_exponent": self.dynatemp_exp,
            "mirostat": self.mirostat,
            "mirostat_tau": self.mirostat_ent,
            "mirostat_eta": self.mirostat_lr,
            "dry_multiplier": self.dry_multiplier,
            "dry_base": self.dry_base,
            "dry_allowed_length": self.dry_allowed_length,
            "dry_penalty_last_n": self.dry_penalty_last_n,
            "dry_sequence_breakers": arguments.breakers(self.dry_sequence_breaker),
            "adaptive_target": self.adaptive_target,
            "adaptive_decay": self.adaptive_decay,
            "sampler_order": None if self.samplers is None else arguments.sampler_order(self.samplers),
            "logit_bias": arguments.logit_bias(self.logit_bias or ()),
            **more,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        llama_cffi.SamplingParams(**given)
        return given

    def of(self, llm: Llama, given: dict[str, Any]) -> dict[str, Any]:
        """Return what was given with what depends on the model: with ``--ignore-eos``, no token that ends a text."""
        if not self.ignore_eos:
            return given
        ends = dict.fromkeys(llm.model.vocab.eog_tokens, float("-inf"))
        return {**given, "logit_bias": {**given.get("logit_bias", {}), **ends}}


SAMPLING = Sampling()
"""What a command takes where no option is given."""


def seed_of(number: int) -> int | None:
    """Return the seed of ``--seed``; None for -1, also as llama.cpp's unsigned number, which draws one."""
    return None if number in (-1, 2**32 - 1) else number


__all__ = ["SAMPLING", "Sampling", "seed_of"]
