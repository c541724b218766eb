"""Rows of embeddings to be decoded in place of tokens, as a projector makes them of images and sound."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llama_cffi._native import ffi, lib
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.scalars import check_int
from llama_cffi._util.shown import shown
from llama_cffi.core.batch import check_positions
from llama_cffi.core.model import Model
from llama_cffi.errors import BatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Decoder(Protocol):
    """What rows are decoded with: a :class:`~llama_cffi.core.context.Context`."""

    n_ubatch: int

    @property
    def ptr(self) -> Any: ...

    @property
    def causal_attn(self) -> bool: ...

    def lock(self) -> AbstractContextManager[None]: ...

    def decode(self, batch: EmbeddingBatch, *, deadline: float | None = None) -> None: ...


class EmbeddingBatch(ProcessBound):
    """Embeddings of one sequence, one row in place of each token: what :meth:`Context.decode` takes beside a Batch.

    ``embd`` is float32 of shape ``(n_tokens, model.n_embd_inp)``. ``pos`` is the position of the first row; or int32 of
    shape ``(n_tokens,)``; or, where ``model.n_pos_per_embd`` is 4, of shape ``(4, n_tokens)``, as
    :meth:`MediaChunk.positions` returns it. Positions of one dimension are the same in all four. ``output_last``
    requests the logits of the last row.

    The arrays are used without a copy where their types allow it, and must not change before the decode.
    Raises :class:`BatchError` for other shapes and types.
    """

    __slots__ = ("_keep", "_native", "embd", "model", "n_tokens", "pos")

    _instead_of_pickling = "send its arrays"
    _instead_of_copying = "make another one of its arrays"

    def __init__(
        self,
        model: Model,
        embd: NDArray[np.float32],
        pos: int | NDArray[np.int32],
        seq_id: int = 0,
        *,
        output_last: bool = False,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {shown(model)}")
        self.model = model
        width = model.n_embd_inp
        if not isinstance(embd, np.ndarray) or embd.dtype != np.float32 or embd.ndim != 2 or embd.shape[1] != width:
            got = f"{embd.dtype} of {embd.shape}" if isinstance(embd, np.ndarray) else shown(embd)
            raise BatchError(f"embd must be float32 of shape (n_tokens, {width}) for this model, got {got}")
        n = len(embd)
        if n == 0:
            raise BatchError("embd has no rows")
        self.embd = np.ascontiguousarray(embd)
        self.n_tokens = n
        self.pos = _positions(pos, n, model.n_pos_per_embd)
        check_int("seq_id", seq_id, error=BatchError)
        n_seq_id, seq_ids = np.ones(n, dtype=np.int32), np.full(n, seq_id, dtype=np.int32)
        output = np.zeros(n, dtype=np.int8)
        output[-1] = output_last
        first = ffi.from_buffer("int32_t[]", seq_ids)
        rows = ffi.new("llama_seq_id *[]", [first + i for i in range(n)])
        native = ffi.new("struct llama_batch *")
        native.n_tokens = n
        native.embd = ffi.from_buffer("float[]", self.embd)
        native.pos = ffi.from_buffer("int32_t[]", self.pos)
        native.n_seq_id = ffi.from_buffer("int32_t[]", n_seq_id)
        native.seq_id = rows
        native.logits = ffi.from_buffer("int8_t[]", output)
        self._native = native
        self._keep = (n_seq_id, seq_ids, output, first, rows)

    @property
    def ptr(self) -> Any:
        """The ``llama_batch *``."""
        return self._native

    @property
    def token(self) -> NDArray[np.int32]:
        """No tokens: zeros, as many as there are rows."""
        return np.zeros(self.n_tokens, dtype=np.int32)

    @property
    def seq_id(self) -> NDArray[np.int32]:
        """int32 of shape ``(n_tokens, 1)``."""
        return self._keep[1][:, None]

    @property
    def n_seq_id(self) -> NDArray[np.int32]:
        """Ones, as many as there are rows."""
        return self._keep[0]

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"<EmbeddingBatch {self.n_tokens} rows>"

    def check_model(self, model: Model) -> None:
        """Raise :class:`BatchError` unless the rows were made for this model: llama.cpp would read past them."""
        if model is not self.model and (model.n_embd_inp, model.n_pos_per_embd) != (
            self.embd.shape[1],
            self.pos.size // self.n_tokens,
        ):
            raise BatchError("this EmbeddingBatch was made for a model of another width")

    def check_positions(self, limit: int) -> None:
        """Raise :class:`BatchError` for a position outside 0 to ``limit - 1``."""
        check_positions(self.pos, limit)

    def decode(self, context: Decoder, *, causal_attn: bool = True, deadline: float | None = None) -> None:
        """Decode the rows; without ``causal_attn`` each attends to all of them, which pieces with
        :attr:`MediaChunk.non_causal` need.

        Raises what :meth:`Context.decode` does, and :class:`BatchError` for more than ``n_ubatch`` rows without causal
        attention: they must be computed at once. Wraps ``llama_set_causal_attn`` and ``llama_decode``.
        """
        if causal_attn or not context.causal_attn:
            context.decode(self, deadline=deadline)
            return
        if self.n_tokens > context.n_ubatch:
            raise BatchError(
                f"{self.n_tokens} tokens of a medium that attend to each other must be computed at once, and "
                f"n_ubatch is {context.n_ubatch}: create the Context with a larger n_ubatch"
            )
        with context.lock():
            lib.llama_set_causal_attn(context.ptr, False)
            try:
                context.decode(self, deadline=deadline)
            finally:
                lib.llama_set_causal_attn(context.ptr, True)


def _positions(pos: int | NDArray[np.int32], n: int, sections: int) -> NDArray[np.int32]:
    if isinstance(pos, np.ndarray):
        if pos.dtype != np.int32 or pos.shape not in ((n,), (sections, n)):
            allowed = f"({n},)" if sections == 1 else f"({n},) or ({sections}, {n})"
            raise BatchError(f"pos must be int32 of shape {allowed}, got {pos.dtype} of {pos.shape}")
        found = pos
    else:
        start = check_int("pos", pos, 0, 2**31 - 1 - n, error=BatchError)
        found = np.arange(start, start + n, dtype=np.int32)
    if sections > 1 and found.ndim == 1:
        found = np.repeat(found[None], sections, axis=0)
    return np.ascontiguousarray(found)


__all__ = ["Decoder", "EmbeddingBatch"]
