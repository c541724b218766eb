"""The results of a Context: logits and embeddings, as copies and as views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi, lib, log
from llama_cffi._native.handle import Handle
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.shown import shown
from llama_cffi.core.context_access import ContextAccess
from llama_cffi.core.embeddings import PoolingType
from llama_cffi.errors import BatchError, StaleViewError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OutputView(ProcessBound):
    """A view of one row of logits or embeddings inside the context; valid until its next decode.

    :attr:`array` raises :class:`StaleViewError` afterwards, and :class:`ClosedError` after close.
    """

    _instead_of_pickling = "send a copy of its array"
    _instead_of_copying = "copy its array"

    __slots__ = ("_access", "_generation", "_row", "_size")

    def __init__(self, access: ContextAccess, row: Any, size: int) -> None:
        self._access, self._row, self._size = access, row, size
        self._generation = access.door.n_computed

    @property
    def array(self) -> NDArray[np.float32]:
        """float32 of one dimension without a copy. Do not keep it beyond the next decode."""
        access = self._access
        access.handle.ptr  # noqa: B018 - raises when closed
        if access.door.n_computed != self._generation:
            raise StaleViewError("this view is from before the context's last decode; take a copy instead of a view")
        return np.frombuffer(ffi.buffer(self._row, 4 * self._size), dtype=np.float32)


class Outputs(ProcessBound):
    """The results of the last decode or encode of a :class:`~llama_cffi.core.context.Context`.

    Logits and embeddings belong to rows of the batch whose output was requested; a negative row counts from the end.
    Methods whose names end in ``_view`` return an :class:`OutputView`, the others a copy. Every method raises
    :class:`BusyError` while another thread is inside the context, and :class:`ClosedError` when it is closed.
    """

    _instead_of_pickling = "send copies of the arrays that its methods give"
    _instead_of_copying = "it is a view of a Context; its methods copy what it shows"

    __slots__ = (
        "_access", "embeddings_enabled", "last_batch", "n_embd", "n_embd_seq", "n_vocab", "on_device", "pooling"
    )  # fmt: skip

    def __init__(
        self,
        access: ContextAccess,
        *,
        n_vocab: int,
        n_embd: int,
        n_embd_seq: int,
        pooling: PoolingType,
        embeddings_enabled: bool,
    ) -> None:
        self._access = access
        self.n_vocab = n_vocab
        """Numbers in a row of logits."""
        self.n_embd = n_embd
        """Numbers in the embedding of a token."""
        self.n_embd_seq = n_embd_seq
        """Numbers in a pooled embedding: scores with rank pooling, else as many as in that of a token."""
        self.pooling = pooling
        """How the embeddings of a sequence's tokens become one; "none" leaves one for each token."""
        self.embeddings_enabled = embeddings_enabled
        """Whether the next decode or encode leaves embeddings; see :meth:`Context.set_embeddings`."""
        self.on_device = False
        """Whether rows of some sequences stay on the device; see :class:`DeviceCandidates`."""
        self.last_batch = (0, 0)
        """The number of the last computation of a batch, and its rows; none of one that failed."""

    @property
    def handle(self) -> Handle:
        """The owner of the native context."""
        return self._access.handle

    @property
    def access(self) -> ContextAccess:
        """The native context, for other views of it."""
        return self._access

    # -- logits

    def logits(self, i: int = -1) -> NDArray[np.float32]:
        """Return a copy of the logits of batch row ``i``, float32 of shape ``(n_vocab,)``.

        Raises :class:`BatchError` for a row whose output was not asked for. Wraps ``llama_get_logits_ith``.
        """
        with self._access.lock():
            return _copied(self.logits_row(i), self.n_vocab)

    def logits_view(self, i: int = -1) -> OutputView:
        """Return the same row without a copy."""
        with self._access.lock():
            return OutputView(self._access, self.logits_row(i), self.n_vocab)

    def logits_row(self, i: int) -> Any:
        """Return a cffi pointer to the logits of a row, for a caller that holds the context; raises the errors of
        :meth:`logits`.

        It is valid until the next decode, and nothing checks that.
        """
        try:
            row = lib.llama_get_logits_ith(self._access.handle.ptr, i)
        except (OverflowError, TypeError):
            raise BatchError(f"i must be the number of a row, got {shown(i)}") from None
        if row and self.on_device and lib.llama_get_sampled_candidates_count_ith(self._access.handle.ptr, i):
            raise UnsupportedError(f"the logits of row {i} stayed on the device: its sequence has backend_sampling")
        if not row:
            raise BatchError(f"row {i} has no logits: its output was not asked for in the last decode",
                             log=log.lines_since(log.call_mark()))  # fmt: skip
        return row

    # -- embeddings

    def embeddings(self, i: int = -1) -> NDArray[np.float32]:
        """Return a copy of the embedding of batch row ``i``, float32 of shape ``(n_embd,)``.

        Raises :class:`BatchError` for a row that was not in the last batch, :class:`UnsupportedError` when the context
        pools, or was not asked for embeddings. Wraps ``llama_get_embeddings_ith``.
        """
        with self._access.lock():
            return _copied(self._embeddings_row(i), self.n_embd)

    def embeddings_view(self, i: int = -1) -> OutputView:
        """Return the same row without a copy."""
        with self._access.lock():
            return OutputView(self._access, self._embeddings_row(i), self.n_embd)

    def embeddings_batch(self) -> NDArray[np.float32]:
        """Return a copy of the embeddings of all rows of the last batch, float32 of shape ``(n_tokens, n_embd)``.

        Raises the errors of :meth:`embeddings`. Wraps ``llama_get_embeddings``.
        """
        with self._access.lock():
            self._embeddings_row(0)
            computation, n_tokens = self.last_batch
            if computation != self._access.door.n_computed:
                n_tokens = 1  # a step, which computes one token
            elif not n_tokens:
                raise BatchError("there are no embeddings: the last batch failed")
            row = lib.llama_get_embeddings(self._access.handle.ptr)
            return _copied(row, n_tokens * self.n_embd).reshape(n_tokens, self.n_embd)

    def embeddings_seq(self, seq_id: int) -> NDArray[np.float32]:
        """Return a copy of the pooled embedding of a sequence, float32 of shape ``(n_embd_seq,)``.

        It is that of the sequence's tokens in the last batch: mean and CLS pooling want the whole sequence in one.
        Raises :class:`BatchError` for a sequence that was not in the last batch, ``ValueError`` for an id outside
        ``0 <= seq_id < n_seq_max``, :class:`UnsupportedError` when the context does not pool, or was not asked for
        embeddings. Wraps ``llama_get_embeddings_seq``.
        """
        with self._access.lock():
            return _copied(self._embeddings_seq_row(seq_id), self.n_embd_seq)

    def embeddings_seq_view(self, seq_id: int) -> OutputView:
        """Return the same without a copy."""
        with self._access.lock():
            return OutputView(self._access, self._embeddings_seq_row(seq_id), self.n_embd_seq)

    def _embeddings_row(self, i: int) -> Any:
        self._check_enabled()
        if self.pooling != "none":
            raise UnsupportedError(f"this Context pools ({self.pooling}); use embeddings_seq()")
        row = lib.llama_get_embeddings_ith(self._access.handle.ptr, i)
        if row == ffi.NULL:
            raise BatchError(f"row {i} has no embedding: it was not in the last batch",
                             log=log.lines_since(log.call_mark()))  # fmt: skip
        return row

    def _embeddings_seq_row(self, seq_id: int) -> Any:
        self._check_enabled()
        if self.pooling == "none":
            raise UnsupportedError("this Context does not pool; use embeddings()")
        row = lib.llama_get_embeddings_seq(self._access.handle.ptr, self._access.check_seq_id(seq_id))
        if row == ffi.NULL:
            raise BatchError(f"sequence {seq_id} has no embedding: it was not in the last batch")
        return row

    def _check_enabled(self) -> None:
        self._access.handle.ptr  # noqa: B018 - raises when closed
        if not self.embeddings_enabled:
            raise UnsupportedError("this Context gives no embeddings: make it with embeddings=True or set_embeddings()")


def _copied(row: Any, size: int) -> NDArray[np.float32]:
    """A copy of ``size`` floats at a native pointer."""
    copy: NDArray[np.float32] = np.frombuffer(ffi.buffer(row, 4 * size), dtype=np.float32).copy()
    return copy


__all__ = ["OutputView", "Outputs"]
