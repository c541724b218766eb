"""Many texts through a Context that leaves embeddings: packed by length, computed, collected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._util.exclusive import Exclusive
from llama_cffi._util.fork import fork_safe
from llama_cffi._util.worker import work_off
from llama_cffi.core.backend import devices
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.context import Context
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.embedding_worker import EmbeddingWorker
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import ClosedError, ContextError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.embeddings import PoolingType
    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.core.prompt import Media

N_SEQ_MAX = 64
"""Texts computed at once, where a sequence costs no memory of its own."""
N_ENCODED = 256
"""Tokens that an encoder gets at once, unless one text has more: its attention is computed between all of them, also
of different texts, and much beyond this size nothing else becomes faster."""

N_WORKERS = 8
"""Most contexts side by side, which share the threads. Threads of one context wait for each other after every
operation: two contexts with one thread each take 0.81 to 0.86 of the time of one with two."""
N_ASIDE = 512
"""Tokens that every context but the first takes at once; the memory of their compute buffers grows with it."""
N_LEAST = 64
"""Fewer tokens make no group of their own: each reads all weights."""
N_BLOCK = 4
"""Groups for each context before another caller's come in between."""


def pack(lengths: Sequence[int], n_tokens: int, n_seq: int) -> Iterator[list[int]]:
    """Yield the indices of texts in groups of at most ``n_tokens`` tokens and ``n_seq`` texts, the longest first.

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

    ``limit`` is the most tokens that one sequence may have. ``another`` makes a context like ``context`` for this many
    tokens at once, where it pays to have several side by side.
    """

    def __init__(self, side: SideContext, another: Callable[[int], SideContext] | None = None) -> None:
        self.context = context = side.context
        self.pooling = context.pooling
        model = context.model
        self._encodes = model.has_encoder or not context.has_memory
        if self._encodes:
            self.limit = context.n_ubatch if context.has_memory else min(context.n_ubatch, model.n_ctx_train)
            self._n_group, n_piece = min(N_ENCODED, context.n_ubatch), context.n_ubatch
        else:
            n_piece = context.n_together
            together = n_piece < context.n_batch or self.pooling in ("mean", "cls")
            self.limit = min(n_piece, context.n_ctx_seq) if together else context.n_ctx_seq
            self._n_group = min(n_piece, context.n_ctx_seq)
        self._n_threads = context.n_threads_batch
        self._another = another
        self._n_workers = min(N_WORKERS, self._n_threads) if another is not None else 1
        self._n_aside = min(N_ASIDE, context.n_ubatch)
        self._workers = [EmbeddingWorker(side, max(n_piece, 1), encodes=self._encodes)]
        self._turn = Exclusive("a signal handler or finalizer cannot embed in the middle of an embedding")
        self._closed = False

    def run(
        self,
        texts: Sequence[NDArray[np.int32] | Prompt],
        *,
        conditioning: Conditioning = PLAIN,
        progress: ProgressCallback | None = None,
        encode: Callable[[Media], NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float32]:
        """Return one row for each text, float32 of shape ``(len(texts), n_embd_seq)``.

        A :class:`Prompt` has media, whose embeddings ``encode`` returns; the pooling is that of the last token then.
        Without pooling one for each token instead, those of a text after those of the text before. No text may be empty
        or longer than ``limit``. ``progress`` receives the part of the tokens that is done, 0.0 to 1.0; what it raises
        ends the computation. Raises the errors of :meth:`Context.decode` and :meth:`Context.set_adapters`.
        """
        lengths = [len(text) for text in texts]
        pools = self.pooling != "none"
        # Where the rows of each text begin.
        starts = np.arange(len(texts)) if pools else np.cumsum([0, *lengths[:-1]])
        width = self.context.n_embd_seq
        total = sum(lengths)
        result = np.empty((len(texts) if pools else total, width), dtype=np.float32)
        done: dict[EmbeddingWorker, int] = {}

        def compute(worker: EmbeddingWorker, group: list[int]) -> None:
            first = texts[group[0]]
            if isinstance(first, Prompt) and encode is not None:
                worker.compute_prompt(first, int(starts[group[0]]), result, conditioning, encode)
            else:
                arrays: list[Any] = [texts[i] for i in group]
                worker.compute(arrays, [int(starts[i]) for i in group], result, conditioning)
            done[worker] = done.get(worker, 0) + sum(lengths[i] for i in group)
            # The first one computes on the caller's thread. The list is made at once, whatever others add meanwhile.
            if progress is not None and worker is self._workers[0] and (n := sum(list(done.values()))) < total:
                progress(n / total)

        n_workers = self._n_workers
        n_seq_max = min(self.context.n_seq_max, self._n_aside)
        plain = [i for i, text in enumerate(texts) if not isinstance(text, Prompt)]
        packed = pack([lengths[i] for i in plain], self._share(total, n_workers), n_seq_max)
        groups = [[plain[i] for i in group] for group in packed]
        aside = [group for group in groups if n_workers > 1 and sum(lengths[i] for i in group) <= self._n_aside]
        # The longest come first: those that fit no other context, one by one with all threads.
        alone = groups[: len(groups) - len(aside)]
        alone += [[i] for i, text in enumerate(texts) if isinstance(text, Prompt)]
        for block in [*([group] for group in alone), *_blocks(aside, n_workers * N_BLOCK)]:
            # Other callers come in between.
            with self._turn.use():
                self._work_off(block, compute)
        if progress is not None:
            progress(1.0)
        return result

    def close(self) -> None:
        """Stop what runs and free the contexts. Idempotent."""
        self._closed = True
        for worker in list(self._workers):
            worker.close()

    def _share(self, n_tokens: int, n_workers: int) -> int:
        """Tokens of a group, such that all workers have something to do and end together."""
        if n_workers == 1:
            return self._n_group
        share = -(-n_tokens // n_workers)
        return min(self._n_group, max(N_LEAST, -(-share // -(-share // self._n_group))))

    def _work_off(self, groups: list[list[int]], compute: Callable[[EmbeddingWorker, list[int]], None]) -> None:
        workers = self._open_workers(min(self._n_workers, len(groups)))
        for worker in workers:
            worker.use_threads(max(1, self._n_threads // len(workers)))
        if len(workers) == 1:
            for group in groups:
                compute(workers[0], group)
            return

        def stop() -> None:
            for worker in workers:
                worker.context.abort()

        try:
            work_off(groups, [partial(compute, worker) for worker in workers], stop)
        except BaseException:
            for worker in workers:
                worker.context.withdraw_abort()
            raise

    def _open_workers(self, n: int) -> list[EmbeddingWorker]:
        """Up to ``n`` workers, fewer where there is no memory for more."""
        while len(self._workers) < min(n, self._n_workers) and self._another is not None:
            try:
                side = self._another(self._n_aside)
            except ContextError:
                self._n_workers = len(self._workers)
                break
            self._workers.append(EmbeddingWorker(side, self._n_aside, encodes=self._encodes))
            if self._closed:
                side.close()
                raise ClosedError("this Llama is closed")
        return self._workers[:n]


def _blocks(groups: list[list[int]], n: int) -> Iterator[list[list[int]]]:
    for first in range(0, len(groups), n):
        yield groups[first : first + n]


class Embedders:
    """The embedders of a model by their pooling, made when they are asked for; ``context`` is the pattern of theirs.

    Each has a context of its own: the pooling is part of it, and what generates should not pay for embeddings.
    """

    def __init__(self, context: Context) -> None:
        self._pattern = context
        self._made: dict[PoolingType, Embedder] = {}
        self._lock = fork_safe(threading.RLock())
        self._closed = False

    def get(self, pooling: PoolingType) -> Embedder:
        """Return the embedder with this pooling. Raises :class:`ContextError` when there is no room for its context."""
        with self._lock:
            if self._closed:
                raise ClosedError("this Llama is closed")
            if pooling not in self._made:
                self._made[pooling] = self._make(pooling)
            return self._made[pooling]

    def close(self) -> None:
        """Stop what runs and free the contexts. Idempotent."""
        with self._lock:
            self._closed = True
            for embedder in self._made.values():
                embedder.close()

    def _make(self, pooling: PoolingType) -> Embedder:
        pattern, model = self._pattern, self._pattern.model
        options = replace(pattern.options, embeddings=True, pooling=pooling, kv_unified=True, n_rs_seq=0)
        if options.n_ctx_seq is not None:
            options = replace(options, n_ctx=options.n_ctx_seq)  # texts are computed one batch after the other
        if model.has_encoder or not pattern.has_memory:
            # All tokens of a text are computed at once.
            n_most = max(options.n_ubatch, min(options.n_batch, model.n_ctx_train))
            options = replace(options, n_ubatch=n_most, n_batch=n_most)
        recurrent = model.is_recurrent or model.is_hybrid
        # llama.cpp wants no more sequences than tokens, and none without a cell.
        n_seq_max = min(options.n_seq_max if recurrent else N_SEQ_MAX, pattern.n_ubatch, options.n_ctx or N_SEQ_MAX)
        options = replace(options, n_seq_max=n_seq_max)
        side = SideContext(model, options)
        if side.context.has_memory or any(device.type in ("gpu", "igpu") for device in devices()):
            # Memory is dear, and a GPU is best at one large computation.
            return Embedder(side)

        def another(n_tokens: int) -> SideContext:
            n_seq_max = min(options.n_seq_max, n_tokens)
            aside = replace(options, n_batch=n_tokens, n_ubatch=n_tokens, n_seq_max=n_seq_max)
            return SideContext(model, aside, own_threads=True)

        return Embedder(side, another)


__all__ = ["Embedder", "Embedders", "pack"]
