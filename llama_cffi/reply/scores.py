"""The results of scoring texts: perplexity, and log-probabilities of continuations."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cffi.reply.completion import TokenLogprob

if TYPE_CHECKING:
    from llama_cffi.core.scorer import Probability
    from llama_cffi.core.vocab import Vocab

_LOG_MAX = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text."""

    value: float
    """The exponential of ``nll``: the number of equally likely tokens with the same uncertainty."""
    stderr: float
    """Standard error of ``value``; NaN for a single token."""
    nll: float
    """Mean negative log-likelihood of a scored token, natural logarithm."""
    n_tokens: int
    """Tokens scored."""
    n_chunks: int
    """Chunks that they were scored in."""


@dataclass(frozen=True)
class Score:
    """The log-probability of a continuation after its prefix."""

    logprob: float
    """Natural logarithm of the probability of all its tokens."""
    is_greedy: bool
    """Whether each of its tokens is the most likely one at its position."""
    tokens: tuple[TokenLogprob, ...]
    """Its tokens, each with its log-probability and with the most likely token at its position."""

    @property
    def n_tokens(self) -> int:
        """How many tokens it has."""
        return len(self.tokens)


def perplexity(logprobs: list[float], n_chunks: int) -> Perplexity:
    """Return the perplexity of tokens scored in this many chunks."""
    n = len(logprobs)
    nll = -math.fsum(logprobs) / n
    variance = math.fsum((logprob + nll) ** 2 for logprob in logprobs) / n
    value = math.exp(nll) if nll < _LOG_MAX else math.inf
    error = value * math.sqrt(variance / (n - 1)) if n > 1 else math.nan
    return Perplexity(value=value, stderr=error, nll=nll, n_tokens=n, n_chunks=n_chunks)


def score(tokens: list[int], found: list[Probability], vocab: Vocab) -> Score:
    """Return the score of a continuation from its tokens and what was found of each."""
    scored = tuple(
        TokenLogprob(token, vocab.piece(token), value, top) for token, (value, top) in zip(tokens, found, strict=True)
    )
    logprob = math.fsum(one.logprob for one in scored)
    return Score(logprob, all(one.token == one.top[0][0] for one in scored), scored)


__all__ = ["Perplexity", "Score", "perplexity", "score"]
