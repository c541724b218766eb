"""Our selection against llama.cpp's own chain over the same rows of logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_cffi._native import ffi, helpers, lib, selector
from llama_cffi._native.selector import Selector, logprob, top_logprobs
from llama_cffi.errors import SamplerError

Row = NDArray[np.float32]

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

CHAINS = {
    "default": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "temperature": {"temperature": 0.7, **OFF},
    "hot": {"temperature": 1.8, **OFF},
    "top-k": {"temperature": 1.0, **OFF, "top_k": 7},
    "top-k of thousands": {"temperature": 1.2, **OFF, "top_k": 2500},
    "top-p": {"temperature": 1.0, **OFF, "top_p": 0.9},
    "narrow top-p, hot": {"temperature": 2.0, **OFF, "top_p": 0.3},
    "min-p": {"temperature": 1.1, **OFF, "min_p": 0.02},
    "top-p and min-p": {"temperature": 0.9, "top_k": 0, "top_p": 0.97, "min_p": 0.01},
}


def rows() -> dict[str, Row]:
    rng = np.random.default_rng(7)
    peaked = rng.normal(0, 1.5, 9000)
    peaked[rng.permutation(9000)[:30]] += rng.normal(9, 2, 30)
    masked = rng.normal(0, 2, 4000)
    masked[rng.random(4000) < 0.9] = -np.inf
    result = {
        "one": np.zeros(1),
        "three": np.array([1.0, -2.0, 1.5]),
        "flat": rng.normal(0, 2, 6001),
        "peaked": peaked,
        "masked": masked,
        "one group": rng.normal(0, 3, 512),
        "one group and one": rng.normal(0, 3, 513),
        "far from zero": rng.normal(5e3, 2, 700),
        "far below zero": rng.normal(-5e3, 2, 700),
        "masked with numbers": np.where(rng.random(900) < 0.5, rng.choice([-1e20, -3e38], 900), rng.normal(0, 2, 900)),
        "last is best": np.append(np.full(1023, -20.0), 3.0),
    }
    return {name: row.astype(np.float32) for name, row in result.items()}


ROWS = rows()


def pointer(row: Row) -> Any:
    return ffi.from_buffer("float[]", row)


def chain_distribution(row: Row, temperature: float, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """What llama.cpp's chain leaves of a row: token -> probability."""
    n = len(row)
    data = ffi.new("llama_token_data[]", n)
    view = np.frombuffer(ffi.buffer(data), dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])
    view["id"], view["logit"] = np.arange(n), row
    array = ffi.new("llama_token_data_array *")
    array.data, array.size, array.selected, array.sorted = data, n, -1, False
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    try:
        for sampler in (
            lib.llama_sampler_init_top_k(top_k),
            lib.llama_sampler_init_top_p(top_p, 1),
            lib.llama_sampler_init_min_p(min_p, 1),
            lib.llama_sampler_init_temp(temperature),
        ):
            lib.llama_sampler_chain_add(chain, sampler)
        lib.llama_sampler_apply(chain, array)
        kept = view[: array.size].copy()
    finally:
        lib.llama_sampler_free(chain)
    weights = np.exp(kept["logit"].astype(np.float64) - kept["logit"].max())
    return dict(zip(kept["id"].tolist(), (weights / weights.sum()).tolist(), strict=True))


def chain_greedy(row: Row) -> int:
    n = len(row)
    data = ffi.new("llama_token_data[]", n)
    for i, logit in enumerate(row.tolist()):
        data[i].id, data[i].logit = i, logit
    array = ffi.new("llama_token_data_array *")
    array.data, array.size, array.selected, array.sorted = data, n, -1, False
    sampler = lib.llama_sampler_init_greedy()
    lib.llama_sampler_apply(sampler, array)
    lib.llama_sampler_free(sampler)
    return int(data[array.selected].id)


@pytest.fixture(params=["numpy"] if helpers.KIND == "python" else ["avx512", "avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    best = selector.instruction_set()
    try:
        yield selector.instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    finally:
        selector.instruction_set(best)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", ROWS)
def test_draws_follow_the_distribution_of_the_chain(name: str, chain: str, isa: str) -> None:
    check_distribution(ROWS[name], CHAINS[chain], draws=6_000 if helpers.KIND == "compiled" else 1_000)


@pytest.mark.skipif(helpers.KIND == "python", reason="takes minutes; test_pure.py compares the tokens one by one")
@pytest.mark.parametrize("chain", ["default", "temperature", "hot", "top-p", "min-p"])
def test_many_draws_follow_it_closely(chain: str) -> None:
    check_distribution(np.random.default_rng(1).normal(0, 2, 600).astype(np.float32), CHAINS[chain], draws=150_000)


def check_distribution(row: Row, parameters: dict[str, float], draws: int) -> None:
    """Compare drawn tokens with the probabilities that llama.cpp's chain leaves."""
    expected = chain_distribution(row, **parameters)  # type: ignore[arg-type]
    selector = Selector(**parameters, seed=20261122)  # type: ignore[arg-type]
    at, n = pointer(row), len(row)
    counts = np.bincount([selector.select(at, n) for _ in range(draws)], minlength=n)

    assert set(np.flatnonzero(counts).tolist()) <= set(expected), "a token that the chain would have removed"
    often = {token for token, p in expected.items() if p * draws > 25}
    assert all(counts[token] for token in often), "a token that is never drawn"

    probabilities = np.zeros(n)
    probabilities[list(expected)] = list(expected.values())
    # The mean logit notices a temperature that is a little off, which spreads thinly over the tokens.
    logits = np.where(probabilities > 0, row, 0).astype(np.float64)
    mean = float(probabilities @ logits)
    spread = math.sqrt(float(probabilities @ (logits - mean) ** 2) / draws)
    assert abs(float(counts @ logits) / draws - mean) <= 5 * spread + 1e-9

    alone = probabilities * draws >= 8
    observed = np.append(counts[alone], counts[~alone].sum())
    wanted = np.append(probabilities[alone], probabilities[~alone].sum()) * draws
    observed, wanted = observed[wanted > 1e-3], wanted[wanted > 1e-3]
    freedom = max(len(wanted) - 1, 1)
    statistic = float((((observed - wanted) ** 2) / wanted).sum())
    # Wilson and Hilferty: the cube root of chi-square is nearly normal. 5 sigma for 270 fixed seeds.
    sigma = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert sigma < 5, f"chi-square {statistic:.1f} with {freedom} degrees of freedom"


@pytest.mark.parametrize("p", [0.05, 0.5, 0.8, 0.95, 0.99])
def test_nucleus_is_the_chains_to_the_token(p: float, isa: str) -> None:
    rng = np.random.default_rng(int(p * 100))
    for _ in range(20):
        n = int(rng.integers(20, 3000))
        row = rng.normal(0, 3, n).astype(np.float32)
        row[rng.permutation(n)[:10]] += 4
        # High heat makes every token of the nucleus about equally likely without changing which they are.
        expected = chain_distribution(row, 50.0, 0, p, 0.0)
        if len(expected) > 300:
            continue
        selector = Selector(50.0, 0, p, 0.0, seed=3)
        at = pointer(row)
        assert {selector.select(at, n) for _ in range(len(expected) * 12)} == set(expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_is_the_first_maximum(temperature: float, isa: str) -> None:
    for row in ROWS.values():
        assert Selector(temperature).select(pointer(row), len(row)) == chain_greedy(row)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([-math.inf, -3.0, -0.0, 0.0, 1.0, 2.5, 2.5000002, 3e38, math.inf]),
        min_size=1,
        max_size=1200,
    )
)
def test_greedy_breaks_ties_like_llama_cpp(values: list[float]) -> None:
    row = np.array(values, dtype=np.float32)
    selector = Selector(0.0)
    if (row == -np.inf).all():
        with pytest.raises(SamplerError, match="-inf"):
            selector.select(pointer(row), len(row))
    else:
        assert selector.select(pointer(row), len(row)) == chain_greedy(row)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=1500),
    st.sampled_from([0.0, 0.3, 1.0, 1e-30, 1e9, math.inf]),
    st.integers(0, 2000),
    st.sampled_from([0.0, 1e-4, 0.5, 0.999, 1.0]),
    st.sampled_from([0.0, 1e-3, 0.5, 1.0]),
)
def test_what_is_drawn_has_a_logit_the_chain_keeps(
    values: list[int], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    row = np.array(values, dtype=np.float32)
    kept = chain_distribution(row, 1.0, top_k, top_p, min_p)
    # Among equal logits llama.cpp's sort decides; by value the two agree, save where a sum of floats is on the edge.
    edge = min(row[token] for token in kept)
    below = row[row < edge]
    allowed = edge if not len(below) or top_p == 1.0 else below.max()
    selector = Selector(temperature, top_k, top_p, min_p, seed=5)
    at = pointer(row)
    for _ in range(5):
        assert row[selector.select(at, len(row))] >= allowed


def test_ties_at_the_edge_of_top_k_keep_the_first() -> None:
    row = np.zeros(2000, dtype=np.float32)
    row[1500] = 1
    selector = Selector(1.0, 4, 1.0, 0.0, seed=1)
    assert {selector.select(pointer(row), 2000) for _ in range(200)} == {1500, 0, 1, 2}


def test_ties_at_the_edge_of_top_p_keep_the_first() -> None:
    row = np.zeros(1600, dtype=np.float32)
    selector = Selector(1.0, 0, 0.01, 0.0, seed=1)
    assert {selector.select(pointer(row), 1600) for _ in range(400)} == set(range(16))


@pytest.mark.parametrize("chain", CHAINS)
def test_the_seed_decides(chain: str) -> None:
    row = ROWS["flat"]
    at, n = pointer(row), len(row)
    one, two = Selector(**CHAINS[chain], seed=9), Selector(**CHAINS[chain], seed=9)  # type: ignore[arg-type]
    first = [one.select(at, n) for _ in range(30)]
    assert [two.select(at, n) for _ in range(30)] == first
    other = Selector(**CHAINS[chain], seed=10)  # type: ignore[arg-type]
    assert [other.select(at, n) for _ in range(30)] != first
    copy = one.clone()
    assert [copy.select(at, n) for _ in range(30)] == [one.select(at, n) for _ in range(30)]
    one.reset()
    copy.reset()
    assert [one.select(at, n) for _ in range(30)] == first == [copy.select(at, n) for _ in range(30)]


def test_instruction_sets_draw_the_same_tokens() -> None:
    best = selector.instruction_set()
    row = ROWS["peaked"]
    at, n = pointer(row), len(row)
    drawn = {}
    try:
        for name in ("avx512", "avx2"):
            try:
                selector.instruction_set(name)
            except ValueError as error:
                pytest.skip(str(error))
            selectors = [Selector(**parameters, seed=4) for parameters in CHAINS.values()]  # type: ignore[arg-type]
            drawn[name] = [selector.select(at, n) for selector in selectors for _ in range(300)]
    finally:
        selector.instruction_set(best)
    assert drawn["avx512"] == drawn["avx2"]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("n", [1, 7, 16, 33, 100])
def test_candidates(n: int) -> None:
    row = np.random.default_rng(n).normal(0, 3, n).astype(np.float32)
    row[n // 2] = -np.inf
    records = np.full(n + 1, 5, dtype=np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
    selector.write_candidates(pointer(row), n, ffi.from_buffer(records))
    assert records[n].tolist() == (5, 5.0, 5.0)
    assert records["id"][:n].tolist() == list(range(n))
    np.testing.assert_array_equal(records["logit"][:n], row)
    assert not records["p"][:n].any()
    records["id"] = records["p"].view(np.int32)
    records["p"] = np.nan
    assert selector.logits_sound(ffi.from_buffer(records), n)
    for i in range(n):
        for bad in (np.nan, -np.nan, np.inf):
            records["logit"][i] = bad
            assert not selector.logits_sound(ffi.from_buffer(records), n)
        records["logit"][i] = row[i]


def test_one_row_does_not_disturb_the_next() -> None:
    """Buffers are reused between rows of different lengths."""
    long, short = ROWS["peaked"], ROWS["three"]
    alone, mixed = Selector(1.0, 0, 0.9, 0.0, seed=2), Selector(1.0, 0, 0.9, 0.0, seed=2)
    expected = []
    for _ in range(20):
        expected.append(alone.select(pointer(long), len(long)))
        expected.append(Selector(0.0).select(pointer(short), 3))
        alone.select(pointer(short), 3)
    got = []
    for _ in range(20):
        got.append(mixed.select(pointer(long), len(long)))
        got.append(Selector(0.0).select(pointer(short), 3))
        mixed.select(pointer(short), 3)
    assert got == expected


@pytest.mark.parametrize("index", [0, 15, 511, 512, 600, 999])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_nan_anywhere_is_an_error(index: int, temperature: float, isa: str) -> None:
    for nan in (np.float32("nan"), -np.float32("nan")):
        row = np.linspace(0, 1, 1000, dtype=np.float32)
        row[index] = nan
        at = pointer(row)
        for call in (
            lambda at=at: Selector(temperature).select(at, 1000),
            lambda at=at: logprob(at, 1000, 3),
            lambda at=at: top_logprobs(at, 1000, 3),
        ):
            with pytest.raises(SamplerError, match="NaN"):
                call()


def test_rows_without_a_distribution_are_errors() -> None:
    nothing = np.full(700, -np.inf, dtype=np.float32)
    with pytest.raises(SamplerError, match="no token is left"):
        Selector(0.8).select(pointer(nothing), 700)
    infinite = np.append(ROWS["three"], np.float32("inf"))
    assert Selector(0.0).select(pointer(infinite), 4) == 3
    with pytest.raises(SamplerError, match=r"\+inf"):
        Selector(0.8).select(pointer(infinite), 4)
    with pytest.raises(SamplerError, match="no token is left"):
        Selector(0.8).select(pointer(infinite), 0)


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
def test_nan_parameters_are_errors(name: str) -> None:
    with pytest.raises(SamplerError, match=f"{name} is NaN"):
        Selector(**{name: math.nan})  # type: ignore[arg-type]


def test_min_p_above_one_is_an_error() -> None:
    with pytest.raises(SamplerError, match="min_p"):
        Selector(min_p=1.5)


@pytest.mark.parametrize("name", ROWS)
def test_logprobs_are_those_of_the_softmax(name: str, isa: str) -> None:
    row = ROWS[name]
    at, n = pointer(row), len(row)
    exact = row.astype(np.float64) - row.max()
    exact -= math.log(np.exp(exact).sum())
    for token in {0, n // 2, n - 1, int(row.argmax())}:
        assert logprob(at, n, token) == pytest.approx(exact[token], abs=2e-6)
    k = min(n, 50)
    best = top_logprobs(at, n, k)
    order = np.argsort(-row, kind="stable")[:k]
    assert [token for token, _ in best] == [int(token) for token in order if row[token] > -np.inf]
    assert [value for _, value in best] == pytest.approx(exact[[token for token, _ in best]].tolist(), abs=3e-5)


def test_logprob_checks_the_token() -> None:
    row = ROWS["three"]
    for token in (-1, 3):
        with pytest.raises(SamplerError, match="outside the row"):
            logprob(pointer(row), 3, token)
    assert top_logprobs(pointer(row), 3, 0) == []
    assert len(top_logprobs(pointer(row), 3, 10)) == 3


@pytest.mark.parametrize("n", [1, 31, 32, 33, 4000])
def test_a_mask_forbids_what_its_bits_leave_out(n: int) -> None:
    rng = np.random.default_rng(n)
    row = rng.normal(0, 2, n).astype(np.float32)
    allowed = rng.random(n) < rng.choice([0.0, 0.5, 1.0], (n + 31) // 32)[np.arange(n) // 32]
    # What stands behind the last token must not matter.
    bits = np.ones((n + 31) // 32 * 32, dtype=np.uint8)
    bits[:n] = allowed
    masked = row.copy()
    words = np.packbits(bits, bitorder="little").view(np.uint32)
    pointer = ffi.from_buffer("float[]", masked)
    assert selector.mask(pointer, n, ffi.from_buffer("uint32_t[]", words)) == allowed.sum()
    assert np.array_equal(masked, np.where(allowed, row, -np.inf))
