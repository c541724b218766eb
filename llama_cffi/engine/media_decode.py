"""The decode of a medium: its embeddings are not tokens, which llama.cpp takes in other decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
    rows, pos_0 = sequence.encodings[span.start].result(), sequence.position(span.start)
    content = content_of(span.media.content)
    try:
        return content.decode(context, rows, pos_0, sequence.seq_id, output=work.output, deadline=deadline)
    except MemoryFullError:
        if len(rows) > context.n_batch:
            # The next decode begins with the medium: the cells of its first batches would be there twice, and a
            # recurrent state that has taken some of them in cannot forget them.
            sequence.n_past = rewind(sequence)
        raise


__all__ = ["decode_medium"]
