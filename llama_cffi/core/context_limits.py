"""The sizes of a context."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from llama_cffi._native import binding, ffi, lib, log
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.embeddings import PoolingType
from llama_cffi.core.model import Model
from llama_cffi.errors import ContextError, UnsupportedError

_PLAIN = ("f32", "f16", "bf16")
_NOT_ROTATED = re.compile(r"\battn_rot_k = 0\b")


@dataclass(frozen=True, kw_only=True)
class ContextLimits:
    """The sizes of a native context as llama.cpp made it, which may differ from what the options asked for."""

    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    n_rs_seq: int
    has_memory: bool
    kv_unified: bool
    shift_ends_process: bool = False
    """Whether llama.cpp would follow a null pointer to shift the positions of its memory."""

    def tokens_at_once(self, pooling: PoolingType, embeddings: bool, *, causal_attn: bool) -> int:
        """Return how many tokens one decode takes: ``n_batch``, or ``n_ubatch`` where all must be seen together.

        Raises :class:`ContextError` for what llama.cpp would compute wrongly.
        """
        if embeddings and self.n_seq_max > self.n_ubatch:
            # llama.cpp would plan a graph with fewer tokens than sequences.
            raise ContextError(f"with embeddings n_seq_max={self.n_seq_max} must be at most n_ubatch={self.n_ubatch}")
        together = not causal_attn or (embeddings and pooling in ("mean", "cls"))
        if not together or not self.has_memory:
            return self.n_batch
        if self.n_seq_max > 1 and not self.kv_unified:
            # llama.cpp computes such sequences in pieces of equal length: what must be seen whole would not be.
            what = f"pooling={pooling!r}" if causal_attn else "attention that is not causal"
            raise ContextError(f"{what} over several sequences needs kv_unified=True")
        return min(self.n_batch, self.n_ubatch)


def read_limits(ptr: Any, options: ContextOptions, mark: int | None = None) -> ContextLimits:
    """Return the limits of a ``llama_context``; wraps ``llama_n_ctx``, ``llama_n_batch`` and their like.

    It was created since ``mark``, a place in the log.
    """
    lines = log.lines_since(mark, logging.INFO) if mark is not None else ()
    n_ctx, n_seq_max = lib.llama_n_ctx(ptr), lib.llama_n_seq_max(ptr)
    if binding.has("llama_n_ctx_seq"):
        n_ctx_seq = lib.llama_n_ctx_seq(ptr)
    else:
        n_ctx_seq = n_ctx if options.kv_unified else n_ctx // n_seq_max
    if options.n_ctx_seq is not None:
        n_ctx_seq = min(n_ctx_seq, int(options.n_ctx_seq))
    return ContextLimits(
        n_ctx=n_ctx,
        n_ctx_seq=n_ctx_seq,
        n_batch=lib.llama_n_batch(ptr),
        n_ubatch=lib.llama_n_ubatch(ptr),
        n_seq_max=n_seq_max,
        n_rs_seq=lib.llama_n_rs_seq(ptr) if binding.has("llama_n_rs_seq") else 0,
        has_memory=lib.llama_get_memory(ptr) != ffi.NULL,
        kv_unified=options.kv_unified,
        # Releases that rotate quantized keys take them for rotated when they shift, also where the size of the heads,
        # or LLAMA_ATTN_ROT_DISABLE, does not allow it.
        shift_ends_process=options.type_k not in _PLAIN and any(_NOT_ROTATED.search(line) for line in lines),
    )


def read_causal_attn(ptr: Any, model: Model, options: ContextOptions) -> bool:
    """Return whether a token sees only those before it; wraps ``llama_get_causal_attn``, where there is one."""
    if binding.has("llama_get_causal_attn"):
        return bool(lib.llama_get_causal_attn(ptr))
    return model.causal_attn if options.attention is None else options.attention == "causal"


def fit_memory(params: Any, model: Model) -> None:
    """Let a batch be one micro-batch where layers have a sliding window.

    llama.cpp finds room for all micro-batches of a batch before it computes the first one, and forgets right then what
    the later ones overwrite and what is older than that: the first ones would miss a part of their windows. That is so
    with ``swa_full``, too. Raises :class:`UnsupportedError` for a divided memory of an encoder-decoder.
    """
    if model.has_encoder and model.has_decoder and params.n_seq_max > 1 and not params.kv_unified:
        raise UnsupportedError("kv_unified=False needs n_seq_max=1 with an encoder-decoder model")
    if model.n_swa:
        params.n_batch = min(params.n_batch, params.n_ubatch)


def check_classifier(model: Model) -> None:
    """Raise :class:`UnsupportedError` for a model that cannot rank: llama.cpp would rank by its hidden state."""
    if not model.has_classifier:
        raise UnsupportedError('pooling="rank": this model has no classifier head')


__all__ = ["ContextLimits", "check_classifier", "fit_memory", "read_causal_attn", "read_limits"]
