"""Samplers that remove tokens by their probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cffi._native import atomic, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._util import ranges
from llama_cffi._util.scalars import INT_MAX
from llama_cffi._util.seed import check_seed
from llama_cffi.core.sampler.base import Sampler
from llama_cffi.errors import SamplerError

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab


@dataclass(frozen=True)
class TopK(Sampler):
    """Keep the k largest logits; k <= 0 keeps all. Wraps ``llama_sampler_init_top_k``."""

    k: int

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_top_k, max(-1, min(ranges.integer("top_k", self.k), INT_MAX)))


@dataclass(frozen=True)
class TopP(Sampler):
    """Keep the smallest set of tokens whose probability reaches p. Wraps ``llama_sampler_init_top_p``."""

    p: float
    min_keep: int = 1

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_top_p, ranges.probability("top_p", self.p), _min_keep(self.min_keep))


@dataclass(frozen=True)
class MinP(Sampler):
    """Keep tokens whose probability is at least p times the largest one. Wraps ``llama_sampler_init_min_p``."""

    p: float
    min_keep: int = 1

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_min_p, ranges.probability("min_p", self.p), _min_keep(self.min_keep))


@dataclass(frozen=True)
class Typical(Sampler):
    """Keep the tokens whose surprise is nearest to the entropy, until their probability exceeds p; 1 keeps all.

    Locally typical sampling (Meister et al., 2022, arXiv:2202.00666). Where a token has no probability at all (a logit
    of -inf, or one far below the largest), llama.cpp finds no entropy and keeps the most likely tokens instead, as
    :class:`TopP` does: put it after :class:`TopK`. Wraps ``llama_sampler_init_typical``.
    """

    p: float
    min_keep: int = 1

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_typical, ranges.probability("typ_p", self.p), _min_keep(self.min_keep))


@dataclass(frozen=True)
class TopNSigma(Sampler):
    """Give -inf to logits more than n standard deviations below the largest; n <= 0 keeps all.

    Top-n-sigma (Tang et al., 2024, arXiv:2411.07641). Logits of -inf do not count for the deviation.
    Wraps ``llama_sampler_init_top_n_sigma``.
    """

    n: float

    def create(self, vocab: Vocab, cell: Cell) -> None:
        atomic.keep(cell, lib.llama_sampler_init_top_n_sigma, ranges.finite("top_n_sigma", self.n))


@dataclass(frozen=True)
class XTC(Sampler):
    """Sometimes remove the most likely tokens ("exclude top choices"). Wraps ``llama_sampler_init_xtc``.

    With the given ``probability`` for each token: of the tokens with a probability of at least ``threshold``, only the
    least likely one is kept. A threshold above 0.5 removes nothing.
    """

    probability: float
    threshold: float
    seed: int
    min_keep: int = 1

    def create(self, vocab: Vocab, cell: Cell) -> None:
        probability = ranges.probability("xtc_probability", self.probability)
        threshold = ranges.probability("xtc_threshold", self.threshold)
        min_keep, seed = _min_keep(self.min_keep), check_seed(self.seed)
        atomic.keep(cell, lib.llama_sampler_init_xtc, probability, threshold, min_keep, seed)


@dataclass(frozen=True)
class Infill(Sampler):
    """For fill-in-the-middle: end the text when its end is likely enough, and merge tokens with the same beginning.

    It compares every candidate with every other: put it after :class:`TopK` and :class:`TopP`. Raises
    :class:`SamplerError` for a vocabulary without a token that ends a text. Wraps ``llama_sampler_init_infill``.
    """

    def create(self, vocab: Vocab, cell: Cell) -> None:
        if vocab.eot is None and vocab.eos is None:
            raise SamplerError("infill needs a vocabulary with an end-of-turn or end-of-text token; this one has none")
        atomic.keep(cell, lib.llama_sampler_init_infill, vocab.ptr)


def _min_keep(value: int) -> int:
    return ranges.count("min_keep", value)


__all__ = ["XTC", "Infill", "MinP", "TopK", "TopNSigma", "TopP", "Typical"]
