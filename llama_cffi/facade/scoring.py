"""How likely a text is: perplexity, and continuations compared.

Scores are computed on a context of their own, made at the first question and as large as that of the Llama. So a long
evaluation neither waits for running requests nor makes them wait, and the prompts that they will reuse stay in memory;
the price is a second memory for as long as the Llama lives.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from llama_cffi.core.conditioning import Conditioning
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.prompt import common_prefix
from llama_cffi.core.scorer import Scorer
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import ClosedError, ContextOverflowError, PromptError
from llama_cffi.facade.base import Base
from llama_cffi.reply.completion import TokenLogprob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.core.scorer import Probability

DEFAULT_CHUNK = 512
"""Tokens of a chunk of :meth:`Scoring.perplexity` unless told otherwise: what llama.cpp's own tool takes."""

_SEQUENCES = 16
"""Continuations, or chunks, that are computed together."""
_MIN_CHUNK = 3
_LOG_MAX = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text."""

    value: float
    """The exponential of ``nll``: as unsure as if each token were one of that many equally likely ones."""
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
    """How likely a continuation is after its prefix."""

    logprob: float
    """Natural logarithm of the probability of all its tokens."""
    is_greedy: bool
    """Whether each of its tokens is the likeliest at its place."""
    tokens: tuple[TokenLogprob, ...]
    """Its tokens, each with its log-probability and with the likeliest token there."""

    @property
    def n_tokens(self) -> int:
        """How many tokens it has."""
        return len(self.tokens)


class Scoring(Base):
    """The methods of a :class:`~llama_cffi.llama.Llama` that judge texts instead of writing them."""

    def perplexity(
        self,
        text: str | SequenceOf[int] | NDArray[np.int32],
        *,
        n_ctx: int | None = None,
        stride: int | None = None,
        adapters: Mapping[LoraAdapter, float] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Perplexity:
        """Perplexity of a text, as llama.cpp's ``llama-perplexity`` computes it.

        The text is cut into chunks of ``n_ctx`` tokens (default: 512, less for a short text, context or training
        length); what is left at the end is not used. Each chunk is computed alone, with BOS as its first token where
        the model wants one, and the second half of its tokens is scored. With ``stride`` each chunk begins that many
        tokens after the one before and only its last ``stride`` tokens are scored: more context for each, and more to
        compute.

        ``progress`` receives the part that is done, 0.0 to 1.0; what it raises ends the computation. Raises
        :class:`PromptError` for a text shorter than a chunk, and :class:`ContextOverflowError` for a chunk longer than
        the context.
        """
        tokens = self._plain_tokens(text)
        size = self._chunk_size(len(tokens), n_ctx)
        if stride is not None and not 0 < stride < size:
            raise ValueError(f"stride must be 1 to {size - 1}, less than the chunk of {size} tokens, got {stride}")
        first = size // 2 + 1 if stride is None else size - stride
        starts = range(0, len(tokens) - size + 1, size if stride is None else stride)
        bos = self._bos()
        conditioning = self._conditioning.with_adapters(adapters, self.model)
        logprobs: list[float] = []
        with self._scoring.use(conditioning) as scorer:
            context = scorer.context
            together = max(1, min(_SEQUENCES, context.n_ctx // size, context.n_batch // size))
            for done in range(0, len(starts), together):
                chunks = [tokens[start : start + size] for start in starts[done : done + together]]
                if bos is not None:
                    chunks = [[bos, *chunk[1:]] for chunk in chunks]
                logprobs += chain.from_iterable(
                    [value for value, _ in one] for one in scorer.texts([(chunk, first) for chunk in chunks])
                )
                if progress is not None:
                    progress(min(1.0, (done + together) / len(starts)))
        return _perplexity(logprobs, len(starts))

    def score(
        self,
        prefix: str | SequenceOf[int] | NDArray[np.int32],
        continuations: SequenceOf[str | SequenceOf[int]],
        *,
        adapters: Mapping[LoraAdapter, float] | None = None,
    ) -> list[Score]:
        """How likely each continuation is after a prefix that all of them share, which is computed once.

        Prefix and continuation are tokenised together, as one text. Scored are the tokens from the first one on that
        differs from the prefix alone without the white space at its end: where the last word of the prefix and the
        first letters of a continuation become one token, that token belongs to the continuation. An empty prefix is the
        model's BOS, or EOS for a model without. Given as token ids, both are taken as they are.

        Raises :class:`PromptError` for no continuations, or one without tokens, and :class:`ContextOverflowError` for
        one that does not fit the context with its prefix.
        """
        texts = [self._whole(prefix, continuation, i) for i, continuation in enumerate(continuations)]
        if not texts:
            raise PromptError("no continuations to score")
        for i, (whole, _) in enumerate(texts):
            if len(whole) > self.context.n_ctx_seq:
                raise ContextOverflowError(
                    f"prefix and continuation {i} have {len(whole)} tokens; the context has {self.context.n_ctx_seq}"
                )
        conditioning = self._conditioning.with_adapters(adapters, self.model)
        with self._scoring.use(conditioning) as scorer:
            found = scorer.continuations(texts, n_top=1)
        return [self._score(whole[first:], one) for (whole, first), one in zip(texts, found, strict=True)]

    def close(self) -> None:
        """Free the contexts, and the models that this object loaded, unless a fork of it is open. Idempotent."""
        super().close()
        self._scoring.close()

    def _open(self, options: ContextOptions) -> None:
        super()._open(options)
        self._scoring = _Place(self.context)

    def _plain_tokens(self, text: str | SequenceOf[int] | NDArray[np.int32]) -> list[int]:
        """Tokens of a text with BOS where the model wants one, and without an end."""
        vocab = self.model.vocab
        if not isinstance(text, str):
            given: list[int] = vocab.check_tokens(text).tolist()
            return given
        tokens: list[int] = vocab.tokenize(text, add_special=False).tolist()
        bos = self._bos()
        return tokens if bos is None else [bos, *tokens]

    def _bos(self) -> int | None:
        vocab = self.model.vocab
        return vocab.bos if vocab.add_bos else None

    def _chunk_size(self, n_tokens: int, wanted: int | None) -> int:
        room = self.context.n_ctx_seq
        if wanted is None:
            size = min(DEFAULT_CHUNK, room, n_tokens, self.model.n_ctx_train or DEFAULT_CHUNK)
            if size < _MIN_CHUNK:
                raise PromptError(f"a text of {n_tokens} tokens is too short; {_MIN_CHUNK} are the least")
            return size
        if wanted < _MIN_CHUNK:
            raise ValueError(f"n_ctx must be at least {_MIN_CHUNK}, got {wanted}")
        if wanted > room:
            raise ContextOverflowError(f"a chunk of {wanted} tokens does not fit a context of {room}")
        if n_tokens < wanted:
            raise PromptError(f"the text has {n_tokens} tokens, which is less than one chunk of {wanted}")
        return wanted

    def _whole(
        self, prefix: str | SequenceOf[int] | NDArray[np.int32], continuation: str | SequenceOf[int], index: int
    ) -> tuple[list[int], int]:
        """Tokens of prefix and continuation, and how many of them come before what is scored."""
        if isinstance(continuation, str):
            if not isinstance(prefix, str):
                raise PromptError("a continuation of a prefix in tokens must be tokens too")
            tokens = self._plain_tokens(prefix + continuation)
            first = common_prefix(tokens, self._plain_tokens(prefix.rstrip()))
        else:
            before = self._plain_tokens(prefix)
            tokens = [*before, *self._plain_tokens(continuation)]
            first = len(before)
        if first == len(tokens):
            raise PromptError(f"continuation {index} has no tokens")
        if first:
            return tokens, first
        vocab = self.model.vocab
        start = vocab.bos if vocab.bos is not None else vocab.eos
        if start is None:
            raise PromptError("there is nothing before the continuation, and this model has neither BOS nor EOS")
        return [start, *tokens], 1

    def _score(self, tokens: list[int], found: list[Probability]) -> Score:
        vocab = self.model.vocab
        scored = tuple(
            TokenLogprob(token, vocab.piece(token), value, top)
            for token, (value, top) in zip(tokens, found, strict=True)
        )
        return Score(
            math.fsum(one.logprob for one in scored), all(one.token == one.top[0][0] for one in scored), scored
        )


class _Place:
    """The context that scores are computed on, for one thread after the other."""

    def __init__(self, like: Context) -> None:
        self._like = like
        self._lock = threading.Lock()
        self._side: SideContext | None = None
        self._scorer: Scorer | None = None

    @contextmanager
    def use(self, conditioning: Conditioning) -> Iterator[Scorer]:
        """Lend the scorer, set up to compute under a conditioning."""
        with self._lock:
            if self._like.closed:
                raise ClosedError("this Llama is closed")
            if self._side is None or self._scorer is None:
                options = self._like.options
                n_seq_max = max(options.n_seq_max, _SEQUENCES + 1)
                options = replace(options, n_ctx=self._like.n_ctx, n_seq_max=n_seq_max, kv_unified=True)
                self._side = SideContext(self._like.model, options)
                self._scorer = Scorer(self._side.context)
            with self._side.conditioned(conditioning) as same:
                if not same:
                    self._scorer.forget()
                yield self._scorer

    def close(self) -> None:
        """Stop what is computed there, and free it."""
        if self._side is not None:
            self._side.close()


def _perplexity(logprobs: list[float], n_chunks: int) -> Perplexity:
    n = len(logprobs)
    nll = -math.fsum(logprobs) / n
    variance = math.fsum((logprob + nll) ** 2 for logprob in logprobs) / n
    value = math.exp(nll) if nll < _LOG_MAX else math.inf
    error = value * math.sqrt(variance / (n - 1)) if n > 1 else math.nan
    return Perplexity(value=value, stderr=error, nll=nll, n_tokens=n, n_chunks=n_chunks)


__all__ = ["DEFAULT_CHUNK", "Perplexity", "Score", "Scoring"]
