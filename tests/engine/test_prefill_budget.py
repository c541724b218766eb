"""How much of prompts goes into a decode."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.prefill_budget import PrefillBudget


def learned(rows: float, each: float, n_rows: int = 8) -> DecodeCost:
    """A machine where so many rows take ``rows`` seconds, and every token of a prompt ``each``."""
    cost = DecodeCost()
    cost.add(1, rows)
    cost.add(n_rows, rows)
    for bits in range(11):
        cost.add_prefill(0, 1 << bits, (1 << bits) * each)
        cost.add_prefill(n_rows, 1 << bits, rows + (1 << bits) * each)
    return cost


@given(
    st.integers(1, 4096),
    st.integers(1, 4096),
    st.integers(0, 64),
    st.sampled_from([None, 0.02, 0.5]),
    st.floats(1e-4, 1.0),
    st.floats(1e-6, 1e-1),
)
def test_it_fits_and_lets_prompts_live(
    n_batch: int, n_ubatch: int, n_rows: int, limit: float | None, rows: float, each: float
) -> None:
    for cost in (DecodeCost(), learned(rows, each, max(1, n_rows))):
        budget = PrefillBudget(n_batch, n_ubatch, cost, limit)
        n = budget.tokens(n_rows)
        assert 0 <= n <= max(0, n_batch - n_rows)
        assert (n == 0) == (n_rows >= n_batch)
        assert n + n_rows <= max(n_ubatch, n_rows + 32)
        assert budget.enough(n_rows) > 0
        if cost.sizes and n > 128:
            assert n * each + (rows if n_rows else 0) <= budget.limit(n_rows) * (1 + 1e-6)


def test_a_step_lasts_as_long_as_it_may() -> None:
    """8 rows that take 24 ms, on a machine that computes 2,000 tokens of prompts a second."""
    budget = PrefillBudget(2048, 512, learned(0.024, 0.0005))
    assert budget.limit(8) == 0.25
    assert budget.tokens(8) == 440, "448 with the rows"
    assert budget.tokens(0) == 512
    assert PrefillBudget(2048, 512, learned(0.024, 0.0005), 0.05).tokens(8) == 52
    # A GPU takes a whole micro-batch in less time than anybody notices; slow machines take what keeps prompts alive.
    assert PrefillBudget(2048, 512, learned(0.003, 0.00002)).tokens(8) == 504
    assert PrefillBudget(2048, 512, learned(0.5, 0.05)).tokens(8) == 24
    assert PrefillBudget(2048, 512, learned(0.5, 0.05)).tokens(0) == 128


def test_a_prompt_that_ends_within_a_little_more_is_not_cut() -> None:
    budget = PrefillBudget(2048, 512, learned(0.024, 0.0005))
    assert budget.to_its_end(108, left=96, n_taken=8)
    assert not budget.to_its_end(109, left=96, n_taken=8)
    assert not budget.to_its_end(96, left=96, n_taken=8), "it ends anyway"
    assert not budget.to_its_end(108, left=96, n_taken=405), "no second micro-batch"
    assert not PrefillBudget(2048, 512, DecodeCost(), 0.05).to_its_end(108, left=96, n_taken=8)


def test_before_anything_is_measured() -> None:
    budget = PrefillBudget(2048, 512, DecodeCost())
    assert budget.tokens(0) == 512
    assert budget.tokens(4) == 124
    assert not budget.too_long(2047)
    assert budget.too_long(2048)


def test_rows_and_prompts_that_take_too_long_together() -> None:
    cost = learned(0.024, 0.001)
    assert PrefillBudget(2048, 512, cost, 0.05).too_long(8)
    assert not PrefillBudget(2048, 512, cost, 0.06).too_long(8)
    assert not PrefillBudget(2048, 512, cost).too_long(8)


def test_a_step_ends_with_a_prompt_when_the_weights_have_paid() -> None:
    # Reading the weights takes as long as 20 tokens, or as 150.
    assert PrefillBudget(2048, 512, learned(0.01, 0.0005)).enough(0) == 80
    assert PrefillBudget(2048, 512, learned(0.003, 0.00002)).enough(0) == 600
    # Rows get on meanwhile, but the prompts take as long.
    assert PrefillBudget(2048, 512, learned(0.01, 0.0005)).enough(8) == 32
    assert PrefillBudget(2048, 512, learned(0.003, 0.00002)).enough(8) == 150


def test_rows_and_prompts_are_known_apart() -> None:
    cost = DecodeCost()
    assert cost.prefill_seconds(0, 100) is None
    cost.add_prefill(0, 100, 0.2)
    assert cost.prefill_seconds(3, 100) == pytest.approx(0.2), "what is known of prompts alone, meanwhile"
    cost.add(3, 0.05)
    cost.add_prefill(3, 100, 0.15)
    assert cost.prefill_seconds(3, 100) == pytest.approx(0.1)
    assert cost.prefill_seconds(0, 100) == pytest.approx(0.2)
    assert cost.seconds(3) == 0.05, "a decode with a prompt in it says nothing of rows alone"
    assert (cost.n_samples(3), cost.n_samples(4)) == (1, 0)
    assert cost.prefill_rate == pytest.approx((100 / 0.2 + 100 / 0.15) / 2)
