"""One context that computes embeddings, for one thread at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.batch import Batch
from llama_cffi.engine.media_content import content_of
from llama_cffi.engine.side_context import SideContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llama_cffi.core.conditioning import Conditioning
    from llama_cffi.core.prompt import Media, Prompt


class EmbeddingWorker:
    """Computes groups of texts that fit its context together. ``n_piece`` tokens go into one batch."""

    def __init__(self, side: SideContext, n_piece: int, *, encodes: bool) -> None:
        self._side = side
        self.context = side.context
        self._n_piece = n_piece
        self._encodes = encodes
        self._batch = Batch(n_piece)
        self._batch.output[:] = 1

    def use_threads(self, n: int) -> None:
        """Compute with this many threads from now on."""
        if self.context.n_threads_batch != n:
            self.context.set_threads(n)

    def compute(
        self,
        texts: list[NDArray[np.int32]],
        starts: list[int],
        result: NDArray[np.float32],
        conditioning: Conditioning,
    ) -> None:
        """Write the rows of texts into the result, those of each from its start on."""
        with self._side.conditioned(conditioning):
            self._compute(texts, starts, result)

    def compute_prompt(
        self,
        prompt: Prompt,
        start: int,
        result: NDArray[np.float32],
        conditioning: Conditioning,
        encode: Callable[[Media], NDArray[np.float32]],
    ) -> None:
        """Write the row of a prompt with media, whose embeddings ``encode`` returns; the pooling is that of the last
        token."""
        with self._side.conditioned(conditioning):
            self.context.memory.clear(data=False)
            place = 0
            for span in prompt.media:
                self._decode_tokens(prompt, place, span.start)
                content, pos_0 = content_of(span.media.content), prompt.position(span.start)
                content.decode(self.context, encode(span.media), pos_0, output=True)
                place = span.end
            self._decode_tokens(prompt, place, len(prompt))
            result[start] = self.context.outputs.embeddings_seq_view(0).array

    def _decode_tokens(self, prompt: Prompt, first: int, end: int) -> None:
        batch = self._batch
        for start in range(first, end, self._n_piece):
            tokens = prompt[start : min(start + self._n_piece, end)]
            n, pos = len(tokens), prompt.position(start)
            batch.token[:n], batch.pos[:n], batch.seq_id[:n, 0] = tokens, np.arange(pos, pos + n), 0
            batch.n_tokens = n
            self.context.decode(batch)

    def close(self) -> None:
        """Stop what is computed and free the context. Idempotent."""
        self._side.close()

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
                result[rows[piece]] = context.outputs.embeddings_batch()
                continue
            for seq_id, end in enumerate(ends):
                if first < end <= piece.stop:
                    result[starts[seq_id]] = context.outputs.embeddings_seq_view(seq_id).array


__all__ = ["EmbeddingWorker"]
