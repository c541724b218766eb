"""Many texts through a Context that leaves embeddings: packed by length, computed, collected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context
from llama_cffi.errors import BusyError, ClosedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.embeddings import PoolingType

N_SEQ_MAX = 64
"""Texts computed at once, where a sequence costs no memory of its own."""
N_ENCODED = 256
"""Tokens that an encoder gets at once, unless one text has more: its attention is computed between all of them, also
of different texts, and much beyond this size nothing else becomes faster."""


def pack(lengths: Sequence[int], n_tokens: int, n_seq: int) -> Iterator[list[int]]:
    """Indices of texts in groups of at most ``n_tokens`` tokens and ``n_seq`` texts, the longest first.

    A text longer than ``n_tokens`` is a group of its own.
    """
    group: list[int] = []
    room = n_tokens
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if group and (lengths[i] > room or len(group) == n_seq):
            yield group
            group, room = [], n_tokens
        group.append(i)
        room -= lengths[i]
    if group:
        yield group


class Embedder:
    """Computes the embeddings, or the classifier's scores, of token sequences. Any thread may call it.

    ``limit`` is the most tokens that one sequence may have.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.pooling = context.pooling
        model = context.model
        self._encodes = model.has_encoder or not context.has_memory
        if self._encodes:
            self.limit = context.n_ubatch if context.has_memory else min(context.n_ubatch, model.n_ctx_train)
            self._n_group, self._n_piece = min(N_ENCODED, context.n_ubatch), context.n_ubatch
        else:
            self._n_piece = context.n_together
            together = self._n_piece < context.n_batch or self.pooling in ("mean", "cls")
            self.limit = min(self._n_piece, context.n_ctx_seq) if together else context.n_ctx_seq
            self._n_group = min(self._n_piece, context.n_ctx_seq)
        self._batch = Batch(max(self._n_piece, 1))
        self._batch.output[:] = 1
        # Reentrant, so that a signal handler that comes in is refused instead of waiting for what it interrupted.
        self._lock = threading.RLock()
        self._running = False

    def run(
        self, texts: Sequence[NDArray[np.int32]], progress: Callable[[float], object] | None = None
    ) -> NDArray[np.float32]:
        """One row for each text, float32 of shape ``(len(texts), n_embd_seq)``.

        Without pooling one for each token instead, those of a text after those of the text before. No text may be
        empty or longer than ``limit``. ``progress`` receives the part of the tokens that is done, 0.0 to 1.0; what it
        raises ends the computation. Raises as :meth:`Context.decode`.
        """
        lengths = [len(text) for text in texts]
        pools = self.pooling != "none"
        # Where the rows of each text begin.
        starts = np.arange(len(texts)) if pools else np.cumsum([0, *lengths[:-1]])
        width = self.context.n_embd_seq
        total, done = sum(lengths), 0
        result = np.empty((len(texts) if pools else total, width), dtype=np.float32)
        for group in pack(lengths, self._n_group, self.context.n_seq_max):
            with self._lock:
                if self._running:
                    raise BusyError("a signal handler or finalizer cannot embed in the middle of an embedding")
                self._running = True
                try:
                    with self.context.lock():
                        self._compute([texts[i] for i in group], [int(starts[i]) for i in group], result)
                finally:
                    self._running = False
            done += sum(lengths[i] for i in group)
            if progress is not None:
                progress(done / total)
        return result

    def _compute(self, texts: list[NDArray[np.int32]], starts: list[int], result: NDArray[np.float32]) -> None:
        """Compute texts that fit the context together, and write their rows into the result."""
        context, batch = self.context, self._batch
        if not self._encodes:
            context.memory.clear(data=False)
        lengths = [len(text) for text in texts]
        ends = np.cumsum(lengths)
        n_tokens = int(ends[-1])
        tokens = np.concatenate(texts)
        seq_ids = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
        positions = np.arange(n_tokens, dtype=np.int32) - (ends - lengths).astype(np.int32)[seq_ids]
        rows = np.array(starts)[seq_ids] + positions
        for first in range(0, n_tokens, self._n_piece):
            piece = slice(first, min(first + self._n_piece, n_tokens))
            n = piece.stop - first
            batch.token[:n], batch.pos[:n], batch.seq_id[:n, 0] = tokens[piece], positions[piece], seq_ids[piece]
            batch.n_tokens = n
            (context.encode if self._encodes else context.decode)(batch)
            if self.pooling == "none":
                result[rows[piece]] = context.embeddings_batch()
                continue
            for seq_id, end in enumerate(ends):
                if first < end <= piece.stop:
                    result[starts[seq_id]] = context.embeddings_seq_view(seq_id).array


class Embedders:
    """The embedders of a model by their pooling, made when they are asked for; ``context`` is the pattern of theirs.

    Each has a context of its own: the pooling is part of it, and what generates should not pay for embeddings.
    """

    def __init__(self, context: Context) -> None:
        self._pattern = context
        self._made: dict[PoolingType, Embedder] = {}
        self._lock = threading.RLock()
        self._closed = False

    def get(self, pooling: PoolingType) -> Embedder:
        """The embedder with this pooling. Raises :class:`ContextError` when there is no room for its context."""
        with self._lock:
            if self._closed:
                raise ClosedError("this Llama is closed")
            if pooling not in self._made:
                self._made[pooling] = Embedder(self._context(pooling))
            return self._made[pooling]

    def close(self) -> None:
        """Stop what runs and free the contexts. Idempotent."""
        with self._lock:
            self._closed = True
            for embedder in self._made.values():
                embedder.context.close()

    def _context(self, pooling: PoolingType) -> Context:
        pattern, model = self._pattern, self._pattern.model
        options = replace(pattern.options, embeddings=True, pooling=pooling, kv_unified=True)
        if model.has_encoder or not pattern.has_memory:
            # All tokens of a text are computed at once.
            n_most = max(options.n_ubatch, min(options.n_batch, model.n_ctx_train))
            options = replace(options, n_ubatch=n_most, n_batch=n_most)
        recurrent = model.is_recurrent or model.is_hybrid
        # llama.cpp wants no more sequences than tokens.
        n_seq_max = min(options.n_seq_max if recurrent else N_SEQ_MAX, pattern.n_ubatch)
        return Context(model, replace(options, n_seq_max=n_seq_max))


__all__ = ["Embedder", "Embedders", "pack"]
