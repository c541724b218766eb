"""One context that computes embeddings, for one thread at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.adapter import AdapterSet
    from llama_cffi.core.control_vector import ControlVector

    Control = tuple[ControlVector | None, range | None]


class EmbeddingWorker:
    """Computes groups of texts that fit its context together. ``n_piece`` tokens go into one batch."""

    def __init__(self, context: Context, n_piece: int, *, encodes: bool) -> None:
        self.context = context
        self._n_piece = n_piece
        self._encodes = encodes
        self._batch = Batch(n_piece)
        self._batch.output[:] = 1
        self._control: Control = (None, None)

    def use_threads(self, n: int) -> None:
        """Compute with so many threads from now on."""
        if self.context.n_threads_batch != n:
            self.context.set_threads(n)

    def compute(
        self,
        texts: list[NDArray[np.int32]],
        starts: list[int],
        result: NDArray[np.float32],
        adapters: AdapterSet = (),
        control: Control = (None, None),
    ) -> None:
        """Write the rows of texts into the result, those of each from its start on."""
        with self.context.lock(), self._changed(adapters, control):
            self._compute(texts, starts, result)

    @contextmanager
    def _changed(self, adapters: AdapterSet, control: Control) -> Iterator[None]:
        """Compute with adapters and a control vector.

        Adapters leave again: nobody could close one that lies here until the next embedding.
        """
        context = self.context
        if control[0] is not self._control[0] or control[1] != self._control[1]:
            context.set_control_vector(control[0], layers=control[1])
            self._control = control
        if not adapters:
            yield
            return
        context.set_adapters(dict(adapters))
        try:
            yield
        finally:
            if not context.closed:
                context.set_adapters({})

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
            if context.pooling == "none":
                result[rows[piece]] = context.embeddings_batch()
                continue
            for seq_id, end in enumerate(ends):
                if first < end <= piece.stop:
                    result[starts[seq_id]] = context.embeddings_seq_view(seq_id).array


__all__ = ["EmbeddingWorker"]
