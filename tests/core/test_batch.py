"""Batch: rows of numpy columns that llama.cpp reads in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_cffi import Batch
from llama_cffi._native import ffi
from llama_cffi.errors import BatchError


def test_add() -> None:
    batch = Batch(4, n_seq_max=2)
    assert batch.add(7, 0) == 0
    assert batch.add(8, 1, 1, output=True) == 1
    assert batch.add(9, 2, [0, 1]) == 2
    assert len(batch) == batch.n_tokens == 3
    assert repr(batch) == "<Batch 3/4>"
    assert batch.token[:3].tolist() == [7, 8, 9]
    assert batch.pos[:3].tolist() == [0, 1, 2]
    assert batch.n_seq_id[:3].tolist() == [1, 1, 2]
    assert batch.seq_id[:3].tolist() == [[0, 0], [1, 0], [0, 1]]
    assert batch.output[:3].tolist() == [0, 1, 0]


def test_the_columns_are_what_llama_cpp_reads() -> None:
    batch = Batch(3, n_seq_max=2)
    batch.extend(np.array([5, 6, 7], dtype=np.int32), 10, 1, output_last=True)
    batch.token[1] = 99
    batch.seq_id[2, 1] = 4
    native = batch.ptr
    assert native.n_tokens == 3
    assert ffi.unpack(native.token, 3) == [5, 99, 7]
    assert ffi.unpack(native.pos, 3) == [10, 11, 12]
    assert ffi.unpack(native.n_seq_id, 3) == [1, 1, 1]
    assert [ffi.unpack(native.seq_id[i], 2) for i in range(3)] == [[1, 0], [1, 0], [1, 4]]
    assert ffi.unpack(native.logits, 3) == [0, 0, 1]
    assert native.embd == ffi.NULL


def test_columns_have_the_types_of_llama_h() -> None:
    batch = Batch(2, n_seq_max=3)
    columns: list[NDArray[Any]] = [batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.output]
    assert [column.dtype.name for column in columns] == ["int32"] * 4 + ["int8"]
    assert [column.shape for column in columns] == [(2,), (2,), (2,), (2, 3), (2,)]


def test_clear_leaves_nothing_behind() -> None:
    batch = Batch(4, n_seq_max=2)
    batch.add(7, 5, [1, 0], output=True)
    batch.extend([1, 2, 3], 6, 1, output_last=True)
    batch.clear()
    assert len(batch) == 0
    batch.extend([4, 5], 0)
    batch.add(6, 2)
    assert batch.n_seq_id[:3].tolist() == [1, 1, 1]
    assert batch.seq_id[:3, 0].tolist() == [0, 0, 0]
    assert batch.output[:3].tolist() == [0, 0, 0]


def test_what_does_not_fit_changes_nothing() -> None:
    batch = Batch(3)
    batch.extend([1, 2], 0)
    with pytest.raises(BatchError, match="2 tokens do not fit a batch with room for 1"):
        batch.extend([3, 4], 2)
    assert batch.token.tolist() == [1, 2, 0]
    batch.add(3, 2)
    with pytest.raises(BatchError, match="full"):
        batch.add(4, 3)
    assert len(batch) == 3
    with pytest.raises(BatchError, match="no tokens"):
        batch.extend([], 0)


def test_sequence_ids() -> None:
    batch = Batch(2, n_seq_max=2)
    for ids in ([], [0, 1, 2]):
        with pytest.raises(BatchError, match=f"1 to 2 sequence ids, got {len(ids)}"):
            batch.add(1, 0, ids)
    assert len(batch) == 0


@pytest.mark.parametrize(("capacity", "n_seq_max"), [(0, 1), (1, 0), (-1, 1)])
def test_no_room_at_all(capacity: int, n_seq_max: int) -> None:
    with pytest.raises(BatchError, match="at least 1"):
        Batch(capacity, n_seq_max)


@pytest.mark.parametrize("n", [-1, 4])
def test_n_tokens(n: int) -> None:
    batch = Batch(3)
    with pytest.raises(BatchError, match="0 to 3"):
        batch.n_tokens = n
    batch.n_tokens = 3
    assert len(batch) == 3


def test_numbers_that_do_not_fit_int32() -> None:
    batch = Batch(3)
    with pytest.raises(OverflowError):
        batch.add(2**31, 0)
    assert len(batch) == 0


@pytest.mark.parametrize(("row", "count"), [(0, 0), (1, 3), (2, -1)])
def test_check_names_the_row(row: int, count: int) -> None:
    batch = Batch(4, n_seq_max=2)
    batch.extend([1, 2, 3], 0)
    batch.n_seq_id[3] = 9
    batch.check()
    batch.n_seq_id[row] = count
    with pytest.raises(BatchError, match=f"row {row} has n_seq_id={count}"):
        batch.check()


@given(st.lists(st.lists(st.integers(0, 511), min_size=1, max_size=9), max_size=6))
def test_extend_is_many_adds(parts: list[list[int]]) -> None:
    together, one_by_one = Batch(64), Batch(64)
    for seq_id, part in enumerate(parts):
        row = together.extend(part, 3, seq_id, output_last=True)
        for i, token in enumerate(part):
            last = one_by_one.add(token, 3 + i, seq_id, output=i == len(part) - 1)
        assert row == last
    for name in ("token", "pos", "n_seq_id", "seq_id", "output"):
        np.testing.assert_array_equal(getattr(together, name), getattr(one_by_one, name))
