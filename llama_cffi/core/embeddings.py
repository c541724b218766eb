"""Embeddings of a Context: the options that ask for them, and what a decode or encode left of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from llama_cffi._native import binding, ffi, lib, log
from llama_cffi.core.options import choice, constant
from llama_cffi.core.views import OutputView, copied
from llama_cffi.errors import BatchError, ContextError, UnsupportedError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from llama_cffi._native.handle import Handle
    from llama_cffi.core.context import ContextOptions
    from llama_cffi.core.model import Model

PoolingType = Literal["none", "mean", "cls", "last", "rank"]
Attention = Literal["causal", "non-causal"]

POOLING_TYPES: tuple[PoolingType, ...] = get_args(PoolingType)
"""In the order of llama.h's enumerator, from 0 on."""

_POOLING: Mapping[str, str] = {name: f"LLAMA_POOLING_TYPE_{name.upper()}" for name in POOLING_TYPES}
_ATTENTION: Mapping[str, str] = {
    "causal": "LLAMA_ATTENTION_TYPE_CAUSAL",
    "non-causal": "LLAMA_ATTENTION_TYPE_NON_CAUSAL",
}


def set_embedding_params(params: Any, options: ContextOptions, model: Model) -> None:
    """Write the options about embeddings into ``llama_context_params``, whose defaults are the model's choice.

    Raises :class:`UnsupportedError` for ranking with a model that has no classifier head, and ``ValueError`` for more
    sequences than tokens.
    """
    if options.embeddings and options.n_seq_max > min(options.n_ubatch, options.n_batch):
        raise ValueError(f"with embeddings n_seq_max={options.n_seq_max} must be at most n_ubatch and n_batch")
    params.embeddings = options.embeddings
    if options.pooling is not None:
        params.pooling_type = constant("pooling", options.pooling, _POOLING)
    if options.attention is not None:
        params.attention_type = constant("attention", options.attention, _ATTENTION)
    # llama.cpp would give numbers of the hidden state as scores.
    if options.embeddings and (options.pooling or model.pooling) == "rank" and not model.has_classifier:
        raise UnsupportedError('pooling="rank": this model has no classifier head')


class EmbeddingOutputs:
    """The part of a :class:`~llama_cffi.core.context.Context` that is about embeddings."""

    model: Model
    options: ContextOptions
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    _has_memory: bool
    _handle: Handle
    _door: Any
    _last_batch: tuple[int, int]
    """The computation that it was, and its rows; none of one that failed."""
    n_together: int
    """Most tokens of one decode: ``n_batch``, or ``n_ubatch`` where attention or pooling needs them at once."""

    if TYPE_CHECKING:

        @property
        def ptr(self) -> Any: ...

        def lock(self) -> AbstractContextManager[None]: ...

    def _init_embeddings(self, ptr: Any) -> None:
        """Called once, before anything is computed; raises :class:`ContextError` as :meth:`set_embeddings`."""
        options = self.options
        self._pooling: PoolingType = POOLING_TYPES[lib.llama_pooling_type(ptr)]
        self._embeddings = options.embeddings
        if binding.has("llama_get_causal_attn"):
            self._causal_attn = bool(lib.llama_get_causal_attn(ptr))
        else:
            self._causal_attn = self.model.causal_attn if options.attention is None else options.attention == "causal"
        self.n_together = self._limit(self._embeddings, causal_attn=self._causal_attn)

    def _limit(self, embeddings: bool, *, causal_attn: bool) -> int:
        """Most tokens of one decode."""
        if embeddings and self.n_seq_max > self.n_ubatch:
            # llama.cpp would plan a graph with fewer tokens than sequences.
            raise ContextError(f"with embeddings n_seq_max={self.n_seq_max} must be at most n_ubatch={self.n_ubatch}")
        together = not causal_attn or (embeddings and self._pooling in ("mean", "cls"))
        if not together or not self._has_memory:
            return self.n_batch
        if self.n_seq_max > 1 and not self.options.kv_unified:
            # llama.cpp computes such sequences in pieces of equal length: what must be seen whole would not be.
            what = f"pooling={self._pooling!r}" if causal_attn else "attention that is not causal"
            raise ContextError(f"{what} over several sequences needs kv_unified=True")
        return min(self.n_batch, self.n_ubatch)

    @property
    def pooling(self) -> PoolingType:
        """How the embeddings of a sequence's tokens become one; "none" leaves one for each token.

        Wraps ``llama_pooling_type``.
        """
        return self._pooling

    @property
    def embeddings_enabled(self) -> bool:
        """Whether the next decode or encode leaves embeddings."""
        return self._embeddings

    def set_embeddings(self, value: bool) -> None:
        """Leave embeddings from the next decode or encode on, or leave them out. Wraps ``llama_set_embeddings``.

        Every token of a batch is an output row then. Raises :class:`ContextError` when mean or CLS pooling meets
        several sequences with ``kv_unified=False``, and for ``n_seq_max`` above ``n_ubatch``;
        :class:`UnsupportedError` for rank pooling without a head.
        """
        if value and self._pooling == "rank" and not self.model.has_classifier:
            raise UnsupportedError('pooling="rank": this model has no classifier head')
        with self.lock():
            limit = self._limit(value, causal_attn=self._causal_attn)
            lib.llama_set_embeddings(self.ptr, value)
            self._embeddings, self.n_together = value, limit

    @property
    def causal_attn(self) -> bool:
        """Whether a token sees only those before it."""
        return self._causal_attn

    def set_causal_attn(self, value: bool) -> None:
        """Let tokens see only those before them, or all of their sequence. Wraps ``llama_set_causal_attn``.

        Without causal attention a batch must fit ``n_ubatch``. Raises :class:`ContextError` as :meth:`set_embeddings`.
        """
        with self.lock():
            limit = self._limit(self._embeddings, causal_attn=value)
            lib.llama_set_causal_attn(self.ptr, value)
            self._causal_attn, self.n_together = value, limit

    # -- results

    @property
    def n_embd_seq(self) -> int:
        """Numbers in a pooled embedding: scores with rank pooling, else the output width of the model."""
        return self.model.n_cls_out if self._pooling == "rank" else self.model.n_embd_out

    def embeddings(self, i: int = -1) -> NDArray[np.float32]:
        """A copy of the embedding of batch row ``i``, float32 of shape ``(n_embd_out,)``; negative counts from the end.

        Raises :class:`BatchError` for a row that was not in the last batch, :class:`UnsupportedError` when the context
        pools, or was not asked for embeddings. Wraps ``llama_get_embeddings_ith``.
        """
        with self.lock():
            return copied(self._embeddings_row(i), self.model.n_embd_out)

    def embeddings_view(self, i: int = -1) -> OutputView:
        """The same row without a copy; see :class:`OutputView`."""
        with self.lock():
            return OutputView(self, self._embeddings_row(i), self.model.n_embd_out, self._door.n_computed)

    def embeddings_batch(self) -> NDArray[np.float32]:
        """A copy of the embeddings of all rows of the last batch, float32 of shape ``(n_tokens, n_embd_out)``.

        Raises as :meth:`embeddings`. Wraps ``llama_get_embeddings``.
        """
        with self.lock():
            self._embeddings_row(0)
            computation, n_tokens = self._last_batch
            if computation != self._door.n_computed:
                n_tokens = 1  # a step, which computes one token
            elif not n_tokens:
                raise BatchError("there are no embeddings: the last batch failed")
            width = self.model.n_embd_out
            return copied(lib.llama_get_embeddings(self.ptr), n_tokens * width).reshape(n_tokens, width)

    def embeddings_seq(self, seq_id: int) -> NDArray[np.float32]:
        """A copy of the pooled embedding of a sequence, float32 of shape ``(n_embd_seq,)``.

        It is that of the sequence's tokens in the last batch: mean and CLS pooling want the whole sequence in one.
        Raises :class:`BatchError` for a sequence that was not in the last batch, ``ValueError`` for an id outside
        ``0 <= seq_id < n_seq_max``, :class:`UnsupportedError` when the context does not pool, or was not asked for
        embeddings. Wraps ``llama_get_embeddings_seq``.
        """
        with self.lock():
            return copied(self._embeddings_seq_row(seq_id), self.n_embd_seq)

    def embeddings_seq_view(self, seq_id: int) -> OutputView:
        """The same without a copy; see :class:`OutputView`."""
        with self.lock():
            return OutputView(self, self._embeddings_seq_row(seq_id), self.n_embd_seq, self._door.n_computed)

    def _embeddings_row(self, i: int) -> Any:
        self._check_wanted()
        if self._pooling != "none":
            raise UnsupportedError(f"this Context pools ({self._pooling}); use embeddings_seq()")
        row = lib.llama_get_embeddings_ith(self.ptr, i)
        if row == ffi.NULL:
            raise BatchError(f"row {i} has no embedding: it was not in the last batch",
                             log=log.lines_since(log.call_mark()))  # fmt: skip
        return row

    def _embeddings_seq_row(self, seq_id: int) -> Any:
        self._check_wanted()
        if self._pooling == "none":
            raise UnsupportedError("this Context does not pool; use embeddings()")
        if not 0 <= seq_id < self.n_seq_max:
            raise ValueError(f"seq_id must be 0 to {self.n_seq_max - 1} in this Context, got {seq_id}")
        row = lib.llama_get_embeddings_seq(self.ptr, seq_id)
        if row == ffi.NULL:
            raise BatchError(f"sequence {seq_id} has no embedding: it was not in the last batch")
        return row

    def _check_wanted(self) -> None:
        self._handle.ptr  # noqa: B018 - raises when closed
        if not self._embeddings:
            raise UnsupportedError("this Context gives no embeddings: make it with embeddings=True or set_embeddings()")


def pooling_of(value: str) -> PoolingType | None:
    """The pooling that a model's metadata names by its number; None for a number that llama.cpp does not know."""
    return POOLING_TYPES[int(value)] if value.isdecimal() and int(value) < len(POOLING_TYPES) else None


def check_pooling(value: str) -> PoolingType:
    """The same word; ``ValueError`` names the words that are there."""
    choice("pooling", value, _POOLING)
    return cast("PoolingType", value)


__all__ = ["Attention", "EmbeddingOutputs", "PoolingType", "check_pooling", "pooling_of", "set_embedding_params"]
