"""Contexts with something in memory, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_cffi import Batch, Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT = [1, 300, 301, 305, 320, 411, 333, 260]
OTHER = [1, 290, 280, 270]


def decode(context: Context, tokens: list[int], pos: int = 0, seq_id: int = 0) -> NDArray[np.float32]:
    batch = Batch(len(tokens))
    batch.extend(tokens, pos, seq_id, output_last=True)
    context.decode(batch)
    return context.outputs.logits()


def follow(context: Context, pos: int, seq_id: int = 0, n: int = 12) -> NDArray[np.float32]:
    """The logits of some greedy steps, each fed with the token that the one before chose."""
    rows, token = [], 5
    for step in range(pos, pos + n):
        rows.append(decode(context, [token], step, seq_id))
        token = int(rows[-1].argmax())
    return np.stack(rows)
