"""What is called after each decode of a Context, while its results are there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from llama_cffi.core.batch import Batch
from llama_cffi.core.embedding_batch import EmbeddingBatch

Watch = Callable[[Batch | EmbeddingBatch], object]
Stepper = Callable[[int, int, int], int]


def watched(step: Stepper, lock: Callable[[], AbstractContextManager[None]], watch: Watch, batch: Batch) -> Stepper:
    """Return a step that shows its batch of one row to ``watch``, unless it fails."""
    return partial(_run, step, lock, watch, batch)


def _run(
    step: Stepper,
    lock: Callable[[], AbstractContextManager[None]],
    watch: Watch,
    batch: Batch,
    token: int,
    pos: int,
    seq_id: int,
) -> int:
    with lock():
        following = step(token, pos, seq_id)
        if following >= 0:
            watch(batch)
        return following


__all__ = ["Stepper", "Watch", "watched"]
