"""How many rows a decode takes, on machines of which tables say what rows cost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.row_groups import RowGroups

N_BATCH = 64

MEASURED: dict[str, dict[int, float]] = {
    "Q8_0": {1: 5.7, 2: 16.2, 4: 23.6, 7: 37.5, 8: 24.3, 16: 26.0},
    "Q8_0 without llamafile": {1: 5.7, 2: 13.3, 4: 19.8, 8: 27.0, 16: 45.0},
    "Q4_K_M": {1: 4.9, 2: 10.6, 4: 14.6, 8: 19.7, 12: 20.0},
    "BF16": {1: 6.1, 2: 9.0, 4: 11.8, 8: 16.3, 12: 19.5},
    "a GPU": {1: 5.0, 64: 6.0},
    "only one at a time": {1: 1.0, 2: 50.0, 64: 1600.0},
}
"""Milliseconds of a decode by its rows; measured ones but for the last two."""


def between(table: dict[int, float]) -> Callable[[int], float]:
    """What a decode of any number of rows takes: on the lines between those that are known."""
    sizes = sorted(table)

    def cost(n: int) -> float:
        if n in table:
            return table[n]
        i = min(bisect_right(sizes, n), len(sizes) - 1)
        low, high = sizes[max(0, i - 1)], sizes[i]
        slope = (table[high] - table[low]) / (high - low) if high > low else 0.0
        return max(0.1, table[low] + slope * (n - low))

    return cost


def simulate(
    cost: Callable[[int], float], n_rows: int, n_steps: int, *, can_pad: bool = True, max_seconds: float | None = None
) -> list[tuple[int, int, float]]:
    """Rows taken, rows computed and milliseconds of every decode."""
    known = DecodeCost()
    groups = RowGroups(known, N_BATCH, can_pad=can_pad, max_seconds=max_seconds)
    steps = []
    for _ in range(n_steps):
        taken, computed = groups.choose(n_rows)
        assert 1 <= taken <= n_rows
        assert taken <= computed <= N_BATCH
        assert computed < 2 * n_rows, "a try that is bound to lose"
        assert can_pad or taken == computed
        known.add(computed, cost(computed))
        steps.append((taken, computed, cost(computed)))
    return steps


def each(steps: list[tuple[int, int, float]]) -> float:
    """Milliseconds for each token."""
    return sum(step[2] for step in steps) / sum(step[0] for step in steps)


@pytest.mark.parametrize("can_pad", [True, False])
@pytest.mark.parametrize("name", MEASURED)
def test_no_group_is_slower_than_one_after_the_other_or_all_together(name: str, can_pad: bool) -> None:
    cost = between(MEASURED[name])
    for n_rows in (1, 2, 3, 5, 7, 8, 13, 32):
        steps = simulate(cost, n_rows, 800, can_pad=can_pad)
        usual = min(cost(1), cost(n_rows) / n_rows)
        # What is learned costs as much as a few decodes of all, and later hardly anything but a rare try.
        for part, n_lost in ((steps, 20), (steps[100:], 2)):
            assert sum(step[2] for step in part) <= 1.03 * usual * sum(step[0] for step in part) + n_lost * cost(n_rows)


def chosen(name: str, n_rows: int, **options: bool) -> tuple[int, int]:
    steps = [step[:2] for step in simulate(between(MEASURED[name]), n_rows, 400, **options)]
    return max(set(steps[200:]), key=steps[200:].count)


def test_what_is_chosen_for_measured_tables() -> None:
    assert [chosen("Q8_0", n) for n in (2, 3, 5, 7, 8)] == [(1, 1), (1, 1), (5, 8), (7, 8), (8, 8)]
    assert [chosen("Q8_0", n, can_pad=False) for n in (3, 7, 9)] == [(1, 1), (7, 7), (9, 9)]
    assert [chosen("Q4_K_M", n) for n in (2, 4, 8)] == [(1, 1), (4, 4), (8, 8)]
    assert [chosen("a GPU", n) for n in (2, 7, 32)] == [(2, 2), (7, 7), (32, 32)]
    assert [chosen("only one at a time", n) for n in (2, 7, 32)] == [(1, 1)] * 3


@given(
    st.lists(st.floats(0.5, 50), min_size=24, max_size=24),
    st.integers(2, 16),
    st.booleans(),
)
def test_any_table(costs: list[float], n_rows: int, can_pad: bool) -> None:
    def cost(n: int) -> float:
        return costs[min(n, len(costs)) - 1]

    steps = simulate(cost, n_rows, 700, can_pad=can_pad)
    usual = min(cost(1), cost(n_rows) / n_rows)
    # The tries may be as bad as can be, and are spaced accordingly.
    assert each(steps[500:]) <= 1.1 * usual + max(costs) / len(steps[500:])


def test_a_machine_that_changes_is_measured_again() -> None:
    known = DecodeCost()
    groups = RowGroups(known, N_BATCH, can_pad=True)
    cost = between(MEASURED["Q4_K_M"])
    taken = []
    for step in range(3000):
        if step == 500:
            cost = between(MEASURED["a GPU"])
        n, computed = groups.choose(2)
        known.add(computed, cost(computed))
        taken.append(n)
    assert taken[300:500].count(1) > 195
    assert taken[2500:].count(2) > 480


def test_what_takes_too_long_is_not_chosen() -> None:
    steps = simulate(between(MEASURED["BF16"]), 8, 600, max_seconds=10.0)
    assert [step[:2] for step in steps[200:]].count((2, 2)) > 390
    assert {step[:2] for step in steps[200:]} <= {(2, 2), (1, 1)}
    steps = simulate(between(MEASURED["BF16"]), 8, 600, max_seconds=1.0)
    assert {step[:2] for step in steps[200:]} <= {(8, 8)}


def test_one_row_needs_no_choice() -> None:
    groups = RowGroups(DecodeCost(), N_BATCH, can_pad=True)
    assert [groups.choose(n) for n in (0, 1)] == [(0, 0), (1, 1)]
    assert groups.choose(5) == (5, 5)
