"""The decode of a medium: its embeddings are not tokens, which llama.cpp takes in other decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.engine.media_content import content_of
from llama_cffi.errors import MemoryFullError

if TYPE_CHECKING:
    from llama_cffi.core.context import Context
    from llama_cffi.engine.plan import Work
    from llama_cffi.engine.running_sequence import RunningSequence


def decode_medium(
    context: Context, work: Work, deadline: float | None, rewind: Callable[[RunningSequence], int]
) -> int:
    """Compute the medium that is next in a sequence; return the row of its last cell.

    Raises the errors of :meth:`Runner.decode`. ``rewind`` is :meth:`Runner.rewind`.
    """
    sequence, span = work.sequence, work.sequence.next_medium
    if span is None or sequence.seq_id is None or span.start not in sequence.encodings:
        raise RuntimeError("a decode begins inside of a medium, or before its embeddings are there")
    embeddings = sequence.encodings[span.start].result()
    content = content_of(span.media.content)
    positions, n = content.positions(sequence.position(span.start)), len(embeddings)
    # Cells that attend to each other fit one micro-batch, and so one batch: this was checked.
    for start in range(0, n, context.n_batch):
        part = slice(start, min(start + context.n_batch, n))
        last = work.output and part.stop == n
        batch = EmbeddingBatch(context.model, embeddings[part], positions[..., part], sequence.seq_id, output_last=last)
        try:
            batch.decode(context, causal_attn=not content.non_causal, deadline=deadline)
        except MemoryFullError:
            if start:
                # The next decode begins with the medium: its cells would be there twice, and a recurrent state that has
                # taken some of them in cannot forget them.
                sequence.n_past = rewind(sequence)
            raise
    return batch.n_tokens - 1


__all__ = ["decode_medium"]
