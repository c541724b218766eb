"""Samplers that select a token: a chain ends in one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llama_cffi._native import atomic, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._util import ranges
from llama_cffi._util.seed import check_seed
from llama_cffi.core.sampler.base import Sampler

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab


@dataclass(frozen=True)
class Greedy(Sampler):
    """Select the token with the largest logit. Wraps ``llama_sampler_init_greedy``."""

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_greedy)


@dataclass(frozen=True)
class Dist(Sampler):
    """Draw a token from the distribution. Wraps ``llama_sampler_init_dist``."""

    seed: int

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_dist, check_seed(self.seed))


@dataclass(frozen=True)
class Mirostat(Sampler):
    """Draw from the k most likely tokens, with k chosen so that the text's surprise stays near ``tau``.

    Mirostat 1 (Basu et al., 2020, arXiv:2007.14966): k is computed from the slope of the ``m`` most likely tokens, by
    Zipf's law. Wraps ``llama_sampler_init_mirostat``.
    """

    seed: int
    tau: float = 5.0
    """Surprise to aim at, in bits per token."""
    eta: float = 0.1
    """How fast the bound follows the surprise; 0 keeps it."""
    m: int = 100
    """How many tokens the slope is estimated from."""

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab, cell: Cell) -> None:
        tau = ranges.not_negative("mirostat_tau", self.tau)
        eta = ranges.not_negative("mirostat_eta", self.eta)
        m = ranges.count("mirostat_m", self.m, 1)
        atomic.keep(cell, lib.llama_sampler_init_mirostat, vocab.n_tokens, check_seed(self.seed), tau, eta, m)


@dataclass(frozen=True)
class MirostatV2(Sampler):
    """Draw from the tokens less surprising than a bound that keeps the text's surprise near ``tau``.

    Mirostat 2 (same paper, algorithm 2). Wraps ``llama_sampler_init_mirostat_v2``.
    """

    seed: int
    tau: float = 5.0
    """Surprise to aim at, in bits per token."""
    eta: float = 0.1
    """How fast the bound follows the surprise; 0 keeps it."""

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab, cell: Cell) -> None:
        tau = ranges.not_negative("mirostat_tau", self.tau)
        eta = ranges.not_negative("mirostat_eta", self.eta)
        atomic.keep(cell, lib.llama_sampler_init_mirostat_v2, check_seed(self.seed), tau, eta)


@dataclass(frozen=True)
class AdaptiveP(Sampler):
    """Draw tokens whose probability is near ``target`` on average. Wraps ``llama_sampler_init_adaptive_p``.

    The average is over the tokens that this sampler drew and the chain accepted. It belongs after samplers that leave
    out unlikely tokens, min-p for example.
    """

    seed: int
    target: float
    """Probability to aim at, up to 1; a negative one draws from the distribution as it is."""
    decay: float = 0.9
    """Weight of the past, 0 to 0.99: about ``1 / (1 - decay)`` tokens count."""

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab, cell: Cell) -> None:
        target, decay = check_adaptive_p(self.target, self.decay)
        atomic.keep(cell, lib.llama_sampler_init_adaptive_p, target, decay, check_seed(self.seed))


def check_adaptive_p(target: float, decay: float) -> tuple[float, float]:
    """Both parameters, or :class:`SamplerError`."""
    number = ranges.finite("adaptive_target", target)
    if number > 0:
        ranges.probability("adaptive_target", target)
    return number, ranges.between("adaptive_decay", decay, 0, 0.99)


__all__ = ["AdaptiveP", "Dist", "Greedy", "Mirostat", "MirostatV2"]
