"""The input of a decode: columns of numpy arrays that llama.cpp reads in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi
from llama_cffi.errors import BatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Batch:
    """Up to ``capacity`` tokens, each at a position of one or more sequences.

    The columns are int32 arrays of shape ``(capacity,)`` (``output`` is int8): ``token``, ``pos``, ``n_seq_id``
    and ``output``, and ``seq_id`` of shape ``(capacity, n_seq_max)``. They may be written directly; ``n_tokens``
    says how many rows count. Nothing is copied on the way into ``llama_batch``.
    """

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
        if capacity < 1 or n_seq_max < 1:
            raise BatchError(f"capacity and n_seq_max must be at least 1, got {capacity} and {n_seq_max}")
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
        if not 0 <= value <= self.capacity:
            raise BatchError(f"n_tokens must be 0 to {self.capacity}, got {value}")
        self._native.n_tokens = value

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"<Batch {self.n_tokens}/{self.capacity}>"

    def check(self) -> None:
        """Raise :class:`BatchError` when a row's ``n_seq_id`` says more ids than ``seq_id`` has columns, or none.

        ``Context.decode`` calls it: llama.cpp would read past the row.
        """
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

    def clear(self) -> None:
        """Forget all rows."""
        self._native.n_tokens = 0

    def single(self, token: int, pos: int, seq_id: int) -> None:
        """Make one token, whose logits are wanted, the whole batch: a decode step of one sequence."""
        self._tokens[0] = token
        self._pos[0] = pos
        self._seq_ids[0] = seq_id
        self._n_seq_id[0] = self._output[0] = self._native.n_tokens = 1

    def add(self, token: int, pos: int, seq_id: int | Iterable[int] = 0, *, output: bool = False) -> int:
        """Append one token and return its row. Raises :class:`BatchError` when the batch is full."""
        row = int(self._native.n_tokens)
        if row >= self.capacity:
            raise BatchError(f"the batch is full ({self.capacity} tokens)")
        if isinstance(seq_id, int):
            self._seq_ids[row * self.n_seq_max] = seq_id
            self._n_seq_id[row] = 1
        else:
            ids = list(seq_id)
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

        ``output_last`` asks for the logits of the last one. Raises :class:`BatchError` when they do not fit;
        nothing is appended then.
        """
        start, n = int(self._native.n_tokens), len(tokens)
        if n == 0:
            raise BatchError("no tokens to append")
        end = start + n
        if end > self.capacity:
            raise BatchError(f"{n} tokens do not fit a batch with room for {self.capacity - start}")
        self.token[start:end] = tokens
        self.pos[start:end] = np.arange(pos, pos + n, dtype=np.int32)
        self.n_seq_id[start:end] = 1
        self.seq_id[start:end, 0] = seq_id
        self.output[start:end] = 0
        self.output[end - 1] = output_last
        self._native.n_tokens = end
        return end - 1


def _filled(
    kind: type[Batch], capacity: int, n_seq_max: int, n_tokens: int, columns: tuple[NDArray[Any], ...]
) -> Batch:
    """A copy of a batch, with memory of its own."""
    batch = kind(capacity, n_seq_max)
    batch.token[:], batch.pos[:], batch.n_seq_id[:], batch.seq_id[:], batch.output[:] = columns
    batch.n_tokens = n_tokens
    return batch
