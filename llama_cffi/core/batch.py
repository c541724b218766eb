"""The input of a decode: columns of numpy arrays that llama.cpp reads in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi
from llama_cffi._util.scalars import INT_MAX, as_int, check_int, is_int
from llama_cffi._util.shown import shown
from llama_cffi.errors import BatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Batch:
    """Up to ``capacity`` tokens, each at a position of one or more sequences.

    The columns are int32 arrays of shape ``(capacity,)`` (``output`` is int8): ``token``, ``pos``, ``n_seq_id`` and
    ``output``, and ``seq_id`` of shape ``(capacity, n_seq_max)``. They may be written directly; ``n_tokens`` is the
    number of rows in use. ``llama_batch`` uses them without a copy.
    """

    width = 0
    """Numbers in a row of hidden states beside each token; 0 without them."""

    __slots__ = (
        "_keep",
        "_n_seq_id",
        "_native",
        "_output",
        "_pos",
        "_seq_ids",
        "_tokens",
        "capacity",
        "n_seq_id",
        "n_seq_max",
        "output",
        "pos",
        "seq_id",
        "token",
    )  # fmt: skip

    def __init__(self, capacity: int, n_seq_max: int = 1) -> None:
        for name, size in (("capacity", capacity), ("n_seq_max", n_seq_max)):
            if not is_int(size, 1):
                raise BatchError(f"{name} must be at least 1, got {shown(size)}")
        capacity, n_seq_max = int(capacity), int(n_seq_max)
        self.capacity = capacity
        self.n_seq_max = n_seq_max
        self.token: NDArray[np.int32] = np.zeros(capacity, dtype=np.int32)
        self.pos: NDArray[np.int32] = np.zeros(capacity, dtype=np.int32)
        self.n_seq_id: NDArray[np.int32] = np.ones(capacity, dtype=np.int32)
        self.seq_id: NDArray[np.int32] = np.zeros((capacity, n_seq_max), dtype=np.int32)
        self.output: NDArray[np.int8] = np.zeros(capacity, dtype=np.int8)
        # cffi views of the same memory: writing one cell through them takes a third of numpy's time.
        self._tokens = ffi.from_buffer("int32_t[]", self.token)
        self._pos = ffi.from_buffer("int32_t[]", self.pos)
        self._n_seq_id = ffi.from_buffer("int32_t[]", self.n_seq_id)
        self._seq_ids = ffi.from_buffer("int32_t[]", self.seq_id)
        self._output = ffi.from_buffer("int8_t[]", self.output)
        rows = ffi.new("llama_seq_id *[]", capacity)
        for i in range(capacity):
            rows[i] = self._seq_ids + i * n_seq_max
        self._keep = rows
        native = ffi.new("struct llama_batch *")
        native.token, native.pos, native.n_seq_id = self._tokens, self._pos, self._n_seq_id
        native.seq_id, native.logits = rows, self._output
        self._native = native

    def __reduce__(self) -> tuple[Any, ...]:
        columns = (self.token, self.pos, self.n_seq_id, self.seq_id, self.output)
        return _filled, (type(self), self.capacity, self.n_seq_max, self.n_tokens, columns)

    @property
    def ptr(self) -> Any:
        """The ``llama_batch *``."""
        return self._native

    @property
    def n_tokens(self) -> int:
        """Rows in use."""
        return int(self._native.n_tokens)

    @n_tokens.setter
    def n_tokens(self, value: int) -> None:
        self._native.n_tokens = check_int("n_tokens", value, 0, self.capacity, error=BatchError)

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"<Batch {self.n_tokens}/{self.capacity}>"

    def check(self, width: int = 0) -> None:
        """Raise :class:`BatchError` when a row's ``n_seq_id`` is 0 or larger than the number of columns of ``seq_id``,
        and unless its hidden states have this width.

        ``Context.decode`` calls it: llama.cpp would read past the row.
        """
        if width != self.width:
            raise BatchError(f"the context takes {width} numbers beside each token, and the batch has {self.width}")
        n = self._native.n_tokens
        # One token is the common case, and a cffi read is faster than numpy.
        if n == 1 and 0 < self._n_seq_id[0] <= self.n_seq_max:
            return
        counts = self.n_seq_id[:n]
        if counts.min() < 1 or counts.max() > self.n_seq_max:
            row = int(np.argmax((counts < 1) | (counts > self.n_seq_max)))
            raise BatchError(
                f"row {row} has n_seq_id={counts[row]}; a row of this batch holds 1 to {self.n_seq_max} sequence ids"
            )

    def check_positions(self, limit: int) -> None:
        """Raise :class:`BatchError` for a position outside 0 to ``limit - 1``."""
        check_positions(self.pos[: self.n_tokens], limit)

    def clear(self) -> None:
        """Remove all rows."""
        self._native.n_tokens = 0

    def single(self, token: int, pos: int, seq_id: int) -> None:
        """Replace all rows with one token, with output: a decode step of one sequence."""
        self._tokens[0] = token
        self._pos[0] = pos
        self._seq_ids[0] = seq_id
        self._n_seq_id[0] = self._output[0] = self._native.n_tokens = 1

    def add(self, token: int, pos: int, seq_id: int | Iterable[int] = 0, *, output: bool = False) -> int:
        """Append one token and return its row. Raises :class:`BatchError` when the batch is full."""
        row = int(self._native.n_tokens)
        if row >= self.capacity:
            raise BatchError(f"the batch is full ({self.capacity} tokens)")
        if type(token) is not int or type(pos) is not int:
            token, pos = _integer("token", token), _integer("pos", pos)
        if type(seq_id) is int or not isinstance(seq_id, Iterable):
            self._seq_ids[row * self.n_seq_max] = seq_id if type(seq_id) is int else _integer("seq_id", seq_id)
            self._n_seq_id[row] = 1
        else:
            ids = [_integer("seq_id", one) for one in seq_id]
            if not 1 <= len(ids) <= self.n_seq_max:
                raise BatchError(f"a row of this batch holds 1 to {self.n_seq_max} sequence ids, got {len(ids)}")
            self.seq_id[row, : len(ids)] = ids
            self._n_seq_id[row] = len(ids)
        self._tokens[row] = token
        self._pos[row] = pos
        self._output[row] = output
        self._native.n_tokens = row + 1
        return row

    def extend(
        self,
        tokens: Sequence[int] | NDArray[np.int32],
        pos: int,
        seq_id: int = 0,
        *,
        output_last: bool = False,
    ) -> int:
        """Append consecutive tokens of one sequence from position ``pos`` on; return the last row.

        ``output_last`` requests the logits of the last one. Raises :class:`BatchError`, without appending any, when
        they do not fit.
        """
        ids = _int32_array(tokens)
        pos, seq_id = _integer("pos", pos), _integer("seq_id", seq_id)
        start, n = int(self._native.n_tokens), len(ids)
        if n == 0:
            raise BatchError("no tokens to append")
        end = start + n
        if end > self.capacity:
            raise BatchError(f"{n} tokens do not fit a batch with room for {self.capacity - start}")
        self.token[start:end] = ids
        self.pos[start:end] = np.arange(pos, pos + n, dtype=np.int32)
        self.n_seq_id[start:end] = 1
        self.seq_id[start:end, 0] = seq_id
        self.output[start:end] = 0
        self.output[end - 1] = output_last
        self._native.n_tokens = end
        return end - 1


def _integer(name: str, value: object) -> int:
    # One beyond 32 bits is an OverflowError when it is written.
    number = as_int(value)
    if number is None:
        raise BatchError(f"{name} must be an int, got {shown(value)}")
    return number


def check_positions(pos: NDArray[np.int32], limit: int) -> None:
    """Raise :class:`BatchError` for a position outside 0 to ``limit - 1``.

    A learned position that does not exist ends the process, on a thread that is not guarded.
    """
    for position in (pos.min(), pos.max()):
        if not 0 <= position < limit:
            raise BatchError(f"position {position} is outside 0 to {limit - 1}, which this model was trained for")


def _int32_array(tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
    array = np.asarray(tokens)
    if array.dtype == np.int32 and array.ndim == 1:
        return array
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise BatchError(f"tokens must be integers in one dimension, not {array.dtype} of shape {array.shape}")
    if array.size and not -INT_MAX - 1 <= int(array.min()) <= int(array.max()) <= INT_MAX:
        raise OverflowError(f"tokens must fit 32 bits, got {int(array.min())} to {int(array.max())}")
    return array.astype(np.int32)


def _filled(
    kind: type[Batch], capacity: int, n_seq_max: int, n_tokens: int, columns: tuple[NDArray[Any], ...]
) -> Batch:
    """A copy of a batch, with memory of its own."""
    batch = kind(capacity, n_seq_max)
    batch.token[:], batch.pos[:], batch.n_seq_id[:], batch.seq_id[:], batch.output[:] = columns
    batch.n_tokens = n_tokens
    return batch
