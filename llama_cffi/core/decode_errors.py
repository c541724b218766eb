"""The errors for the results of ``llama_decode`` and ``llama_encode``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from llama_cffi.core.allocation import allocation_reason
from llama_cffi.core.batch import Batch
from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.core.vocab import Vocab
from llama_cffi.errors import BatchError, DecodeError, MemoryFullError, TokenError

NO_ROOM, ABORTED, INVALID, NO_MEMORY = 1, 2, -1, -2


def raise_decode_error(
    code: int,
    batch: Batch | EmbeddingBatch,
    vocab: Vocab,
    *,
    n_ctx: int,
    n_seq_max: int,
    lines: Sequence[str],
) -> NoReturn:
    """Raise why a batch could not be computed; ``lines`` are what llama.cpp logged during the call.

    :class:`MemoryFullError` for :data:`NO_ROOM`, :class:`TokenError` or :class:`BatchError` for :data:`INVALID`, and
    :class:`DecodeError` for any other result.
    """
    if code == NO_ROOM:
        raise MemoryFullError(f"no room for {batch.n_tokens} tokens in a memory of {n_ctx}", code=code, log=lines)
    if code != INVALID:
        if code == NO_MEMORY and (error := no_memory("", lines)) is not None:
            raise error
        raise DecodeError(f"llama.cpp failed with code {code}", code=code, log=lines)
    n = batch.n_tokens
    tokens, ids = batch.token[:n], batch.seq_id[:n]
    if tokens.min() < 0 or tokens.max() >= vocab.n_tokens:
        vocab.check_tokens(tokens)
        raise TokenError("a token is outside the vocabulary", log=lines)
    used = ids[np.arange(ids.shape[1]) < batch.n_seq_id[:n, None]]
    if used.size and (used.min() < 0 or used.max() >= n_seq_max):
        bad = int(used.min() if used.min() < 0 else used.max())
        raise BatchError(f"seq_id {bad} is outside 0 to {n_seq_max - 1} (n_seq_max={n_seq_max})")
    raise BatchError("llama.cpp refuses the batch", log=lines)


def no_memory(message: str, lines: Sequence[str]) -> DecodeError | None:
    """Return the error for a computation that failed because an allocation did; None for another failure."""
    reason = allocation_reason((*lines, message))
    if reason is None:
        return None
    return DecodeError(f"a device has no memory left to compute with: {reason}", code=NO_MEMORY, log=lines)


__all__ = ["ABORTED", "NO_MEMORY", "no_memory", "raise_decode_error"]
