"""Packing texts into batches."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.engine.embedder import pack


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 50), st.integers(1, 9))
def test_every_text_comes_once_and_every_group_fits(lengths: list[int], n_tokens: int, n_seq: int) -> None:
    groups = list(pack(lengths, n_tokens, n_seq))
    order = [i for group in groups for i in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for group in groups:
        assert 1 <= len(group) <= n_seq
        assert sum(lengths[i] for i in group) <= n_tokens or len(group) == 1
    # No group could have taken the first text of the next one.
    for group, following in pairwise(groups):
        total = sum(lengths[i] for i in group) + lengths[following[0]]
        assert len(group) == n_seq or total > n_tokens
