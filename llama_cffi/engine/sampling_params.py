"""How tokens are chosen: the parameters of sampling, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi._util import ranges
from llama_cffi._util.seed import check_seed
from llama_cffi._util.shown import shown
from llama_cffi._util.typed_dict import TypedDict
from llama_cffi.errors import SamplerError

if TYPE_CHECKING:
    from llama_cffi.core.sampler import Sampler

SamplerName = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature", "infill"
]

SAMPLER_ORDER: tuple[SamplerName, ...] = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typical_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
"""The order of the samplers in llama.cpp."""

SAMPLER_NAMES: tuple[SamplerName, ...] = (*SAMPLER_ORDER, "infill")
MIROSTAT_REPLACES = ("repeat_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier", "top_n_sigma",
                     "typical_p", "xtc_probability", "dynatemp_range", "adaptive_target", "sampler_order")  # fmt: skip
"""Fields that have no effect beside Mirostat."""
Bias = Mapping[int, float] | Mapping[str, float | Literal["never"]] | Mapping[int | str, float | Literal["never"]]
"""Values that are added to the logits of tokens, which are given by id or by text; "never" forbids a token."""


class SamplingKwargs(TypedDict, total=False):
    """The fields of :class:`SamplingParams` as keyword arguments; None means "not given"."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    repeat_last_n: int | None
    repeat_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_penalty_last_n: int | None
    dry_sequence_breakers: Sequence[str] | None
    top_n_sigma: float | None
    typical_p: float | None
    xtc_probability: float | None
    xtc_threshold: float | None
    dynatemp_range: float | None
    dynatemp_exponent: float | None
    mirostat: int | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    adaptive_target: float | None
    adaptive_decay: float | None
    sampler_order: Sequence[SamplerName] | None
    samplers: Sequence[Sampler] | None
    logit_bias: Bias | None
    grammar: str | None
    grammar_root: str | None


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The parameters of sampling. The defaults are those of llama.cpp.

    The order is: logit bias, grammar, what ``sampler_order`` names, draw. Values out of range raise
    :class:`SamplerError` at once.
    """

    temperature: float = 0.8
    """0 or less is greedy: of what the samplers before it in ``sampler_order`` leave, the likeliest."""
    top_k: int = 40
    """Keep the k most likely tokens; 0 or less keeps all."""
    top_p: float = 0.95
    """Keep the smallest set of tokens whose probability reaches this value; 1 keeps all."""
    min_p: float = 0.05
    """Keep tokens whose probability is at least this fraction of the largest one; 0 keeps all."""
    seed: int | None = None
    """The seed, 0 to 2**32 - 2; None draws one, which the Completion reports."""
    repeat_last_n: int = 64
    """The number of last tokens, prompt included, that the penalties apply to."""
    repeat_penalty: float = 1.0
    """Repetition penalty; 1 disables."""
    frequency_penalty: float = 0.0
    """Frequency penalty; 0 disables."""
    presence_penalty: float = 0.0
    """Presence penalty; 0 disables."""
    dry_multiplier: float = 0.0
    """DRY: continuing a repetition of n tokens costs this times ``dry_base ** (n - dry_allowed_length)``; 0 is off."""
    dry_base: float = 1.75
    """The base of DRY, at least 1."""
    dry_allowed_length: int = 2
    """The length of repetitions without a penalty of DRY."""
    dry_penalty_last_n: int = 64
    """The number of last tokens, prompt included, in which DRY searches repetitions."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """Texts that end a repetition."""
    top_n_sigma: float = -1.0
    """Keep logits within this many standard deviations of the largest; 0 or less keeps all."""
    typical_p: float = 1.0
    """Keep the tokens whose information is closest to the entropy, up to this probability; 1 keeps all."""
    xtc_probability: float = 0.0
    """The probability that XTC removes the most likely tokens; 0 is off."""
    xtc_threshold: float = 0.1
    """XTC removes the tokens of at least this probability except the least likely of them; above 0.5 it removes
    none."""
    dynatemp_range: float = 0.0
    """The temperature follows the entropy this far up and down; 0 is off, as it is where ``temperature`` is greedy."""
    dynatemp_exponent: float = 1.0
    """Power of the entropy that the temperature follows."""
    mirostat: int = 0
    """1 or 2 for that version of Mirostat, 0 is off. It and the temperature alone choose: top-k, top-p and min-p are
    not used then, and what is off by default cannot be on."""
    mirostat_tau: float = 5.0
    """The target surprise of Mirostat, in bits per token."""
    mirostat_eta: float = 0.1
    """The learning rate of Mirostat."""
    adaptive_target: float = -1.0
    """The probability of tokens that adaptive-p aims at; a negative value is off."""
    adaptive_decay: float = 0.9
    """The weight of past tokens for adaptive-p, 0 to 0.99."""
    sampler_order: tuple[SamplerName, ...] = SAMPLER_ORDER
    """The names of the samplers in the order in which they run; a sampler that is not named is off."""
    samplers: tuple[Sampler, ...] | None = None
    """A whole chain in its order, with its own seeds, instead of the fields above; its last sampler must select.

    Beside it only ``logit_bias`` and ``grammar`` may be given. Of a :class:`PythonSampler` with a ``clone`` every
    request gets a clone; one without can serve one request at a time. Each starts with a ``reset``."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Values that are added to the logits of tokens; ``-inf`` forbids a token."""
    grammar: str | None = None
    """A GBNF grammar that the text must follow."""
    grammar_root: str = "root"
    """The grammar's start symbol."""

    def __post_init__(self) -> None:
        for name in ("dry_sequence_breakers", "sampler_order", "samplers"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        for check, names in _CHECKS:
            for name in names:
                # numpy's numbers become Python's, so that the parameters can be written as JSON.
                value = getattr(self, name)
                if (number := check(name, value)) is not value:
                    object.__setattr__(self, name, number)
        ranges.between("dry_base", self.dry_base, 1, float("inf"))
        ranges.breakers(self.dry_sequence_breakers)
        ranges.between("adaptive_target", max(self.adaptive_target, 0), 0, 1)
        if self.seed is not None:
            object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "logit_bias", ranges.token_bias(self.logit_bias))
        self._check_order()
        if self.mirostat:
            self._check_mirostat()
        if self.samplers is not None:
            self._check_samplers()

    def _check_order(self) -> None:
        order = self.sampler_order
        if not isinstance(order, (tuple, list)) or any(
            not isinstance(name, str) or name not in SAMPLER_NAMES for name in order
        ):
            raise SamplerError(f"sampler_order must be names of {', '.join(SAMPLER_NAMES)}, got {shown(order)}")
        if len(set(order)) < len(order):
            raise SamplerError(f"sampler_order names a sampler twice: {', '.join(order)}")

    def _check_mirostat(self) -> None:
        given = [name for name in MIROSTAT_REPLACES if getattr(self, name) != getattr(SamplingParams, name)]
        if given:
            raise SamplerError(
                f"mirostat replaces the other samplers: {', '.join(given)} would have no effect beside it"
            )

    def _check_samplers(self) -> None:
        if not isinstance(self.samplers, (tuple, list)):
            raise SamplerError(f"samplers must be a tuple of samplers, got {shown(self.samplers)}")
        beside = ("samplers", "logit_bias", "grammar", "grammar_root")
        given = [one.name for one in fields(self) if one.name not in beside and getattr(self, one.name) != one.default]
        if given:
            raise SamplerError(f"samplers is the whole chain: {', '.join(given)} would have no effect beside it")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are set, by name."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in values if value is not None}

    @property
    def has_penalties(self) -> bool:
        """Whether any penalty changes a logit."""
        return self.repeat_last_n != 0 and (
            self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
        )

    @property
    def needs_chain(self) -> bool:
        """Whether anything but greedy choice, top-k, top-p, min-p and temperature in this order is asked for."""
        return (
            self.samplers is not None
            or bool(self.logit_bias)
            or self.sampler_order != SAMPLER_ORDER
            or self.has_penalties
            or self.dry_multiplier > 0
            or self.top_n_sigma > 0
            or self.typical_p < 1
            or self.xtc_probability > 0
            or self.dynatemp_range > 0
            or self.mirostat != 0
            or self.adaptive_target >= 0
        )


def _history(name: str, value: int) -> int:
    return ranges.count(name, value, high=ranges.MAX_HISTORY)


def _version(name: str, value: int) -> int:
    return ranges.count(name, value, high=2)


def _decay(name: str, value: float) -> float:
    return ranges.between(name, value, 0, 0.99)


_CHECKS: tuple[tuple[Callable[[str, Any], float], tuple[str, ...]], ...] = (
    (ranges.finite, ("temperature", "frequency_penalty", "presence_penalty", "top_n_sigma", "adaptive_target")),
    (ranges.finite, ("dry_base",)),
    (ranges.probability, ("top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold")),
    (ranges.not_negative, ("dry_multiplier", "dynatemp_range", "dynatemp_exponent", "mirostat_tau", "mirostat_eta")),
    (ranges.positive, ("repeat_penalty",)),
    (ranges.integer, ("top_k",)),
    (ranges.count, ("dry_allowed_length",)),
    (_history, ("repeat_last_n", "dry_penalty_last_n")),
    (_version, ("mirostat",)),
    (_decay, ("adaptive_decay",)),
)


__all__ = [
    "MIROSTAT_REPLACES",
    "SAMPLER_NAMES",
    "SAMPLER_ORDER",
    "Bias",
    "SamplerName",
    "SamplingKwargs",
    "SamplingParams",
]
