"""The context that scores are computed on, beside the one that generates.

It is made at the first question, and as large as that of the engine. So a long evaluation neither waits for running
requests nor makes them wait, and the prompts that they will reuse stay in memory; the price is a second memory for as
long as the engine lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from llama_cffi._util.exclusive import Exclusive
from llama_cffi.core.conditioning import Conditioning
from llama_cffi.core.context import Context
from llama_cffi.core.scorer import Scorer
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import ClosedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.core.scorer import Probability, Text

_SEQUENCES = 16
"""Continuations, or chunks, that are computed together."""


class Scoring:
    """Scores tokens, for one thread after the other."""

    def __init__(self, like: Context) -> None:
        self._like = like
        self._turn = Exclusive("a signal handler or callback cannot score in the middle of a score")
        self._side: SideContext | None = None
        self._scorer: Scorer | None = None
        self._closed = False

    @contextmanager
    def use(self, conditioning: Conditioning) -> Iterator[Scorer]:
        """Lend the scorer, set up to compute under a conditioning.

        Raises :class:`BusyError` in the middle of another use on the same thread, and the errors of a Context.
        """
        with self._turn.use():
            self._check_open()
            if self._like.model.has_encoder:
                raise UnsupportedError("scores are of texts that a decoder continues; this model has an encoder")
            if self._side is None or self._scorer is None:
                options = self._like.options
                # The cells that all texts share are not needed twice: one text may take as many as anywhere.
                n_ctx = self._like.n_ctx_seq if options.kv_unified else self._like.n_ctx
                n_batch = max(options.n_batch, 2)  # what texts have in common is a sequence of its own
                n_seq_max = min(max(options.n_seq_max, _SEQUENCES + 1), n_batch, n_ctx)
                options = replace(
                    options, n_ctx=n_ctx, n_batch=n_batch, n_seq_max=n_seq_max, kv_unified=True, n_rs_seq=0
                )
                self._side = SideContext(self._like.model, options)
                self._scorer = Scorer(self._side.context)
                if self._closed:  # meanwhile, when there was nothing to close
                    self._side.close()
                    self._check_open()
            with self._side.conditioned(conditioning) as same:
                if not same:
                    self._scorer.forget()
                yield self._scorer

    def _check_open(self) -> None:
        if self._closed or self._like.closed:
            raise ClosedError("this Llama is closed")

    def close(self) -> None:
        """Stop what is computed there, and free it."""
        self._closed = True
        if self._side is not None:
            self._side.close()

    def chunks(
        self,
        chunks: Iterable[Text],
        n_chunks: int,
        size: int,
        conditioning: Conditioning,
        progress: ProgressCallback | None = None,
    ) -> list[float]:
        """Return the log-probability of every token that is wanted of ``n_chunks`` chunks of ``size`` tokens, in order.

        ``progress`` receives the part that is done, 0.0 to 1.0; what it raises ends the computation.
        """
        logprobs: list[float] = []
        left = iter(chunks)
        done = 0
        with self.use(conditioning) as scorer:
            context = scorer.context
            together = max(1, min(_SEQUENCES, context.n_seq_max, context.n_ctx // size, context.n_batch // size))
            while group := list(islice(left, together)):
                for one in scorer.texts(group):
                    logprobs.extend(value for value, _ in one)
                done += len(group)
                if progress is not None:
                    progress(done / n_chunks)
        return logprobs

    def continuations(
        self, texts: Sequence[Text], conditioning: Conditioning, progress: ProgressCallback | None = None
    ) -> list[list[Probability]]:
        """Return what is found of every wanted token of texts that begin alike, with the likeliest one there.

        ``progress`` is as in :meth:`chunks`.
        """
        with self.use(conditioning) as scorer:
            return scorer.continuations(texts, n_top=1, progress=progress)


__all__ = ["Scoring"]
