"""Every sampler beside its definition in numpy, and beside llama.h called with the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Model, SamplerChain, Vocab
from llama_cffi._native import ffi, guard, lib
from llama_cffi.core.options import named_call
from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
    Dist,
    Dry,
    DynamicTemperature,
    Greedy,
    Infill,
    Mirostat,
    MirostatV2,
    Penalties,
    Sampler,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from llama_cffi.errors import SamplerError

pytest_plugins = ["tests.support.models"]

Row = NDArray[np.float32]


@pytest.fixture
def vocab(model: Model) -> Vocab:
    return model.vocab


def rows(n: int = 12, size: int = 200) -> Iterator[Row]:
    """Rows from nearly flat to nearly certain."""
    rng = np.random.default_rng(5)
    for scale in np.linspace(0.2, 6, n):
        yield rng.normal(0, scale, size).astype(np.float32)


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    e = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(e / e.sum())


def left(vocab: Vocab, row: Row, *samplers: Sampler) -> dict[int, float]:
    """Logits of the tokens left, without those at -inf."""
    with SamplerChain([*samplers, Greedy()], vocab) as chain:
        ids, logits, _ = chain.apply(row)
    return {int(i): float(x) for i, x in zip(ids, logits, strict=True) if np.isfinite(x)}


# -- beside llama.h


def raw_run(sampler: Any, row: Row, n_rounds: int) -> list[tuple[list[int], list[float], int]]:
    """What a ``llama_sampler *`` makes of a row, applied and accepted several times; frees it."""
    results = []
    for _ in range(n_rounds):
        data = ffi.new("llama_token_data[]", [{"id": i, "logit": x} for i, x in enumerate(row.tolist())])
        array = ffi.new("llama_token_data_array *", {"data": data, "size": len(row), "selected": -1})
        guard.sampler_apply(sampler, array)
        kept = [array.data[i] for i in range(array.size)]
        results.append(([one.id for one in kept], [one.logit for one in kept], int(array.selected)))
        guard.sampler_accept(sampler, kept[max(array.selected, 0)].id)
    lib.llama_sampler_free(sampler)
    return results


def raw_dry(vocab: Vocab) -> Any:
    texts = [ffi.new("char[]", b"a"), ffi.new("char[]", b"th")]
    pointers = ffi.new("char *[]", texts)
    function, *args = named_call(
        "llama_sampler_init_dry", vocab=vocab.ptr, n_ctx_train=20, dry_multiplier=0.9, dry_base=1.5,
        dry_allowed_length=1, dry_penalty_last_n=20, seq_breakers=pointers, num_breakers=2,
    )  # fmt: skip
    return function(*args)


RAW: list[tuple[Sampler, Callable[[Vocab], Any]]] = [
    (Typical(0.7, min_keep=3), lambda v: lib.llama_sampler_init_typical(0.7, 3)),
    (TopNSigma(1.25), lambda v: lib.llama_sampler_init_top_n_sigma(1.25)),
    (XTC(0.6, 0.01, 9, min_keep=2), lambda v: lib.llama_sampler_init_xtc(0.6, 0.01, 2, 9)),
    (DynamicTemperature(0.9, 0.4, 1.5), lambda v: lib.llama_sampler_init_temp_ext(0.9, 0.4, 1.5)),
    (Mirostat(9, 3.0, 0.2, 50), lambda v: lib.llama_sampler_init_mirostat(v.n_tokens, 9, 3.0, 0.2, 50)),
    (MirostatV2(9, 3.0, 0.2), lambda v: lib.llama_sampler_init_mirostat_v2(9, 3.0, 0.2)),
    (AdaptiveP(9, 0.3, 0.8), lambda v: lib.llama_sampler_init_adaptive_p(0.3, 0.8, 9)),
    (AdaptiveP(9, -1.0), lambda v: lib.llama_sampler_init_adaptive_p(-1.0, 0.9, 9)),
    (Dry(0.9, 1.5, 1, 20, ("a", "th")), raw_dry),
    (Infill(), lambda v: lib.llama_sampler_init_infill(v.ptr)),
    (TopP(0.6, min_keep=4), lambda v: lib.llama_sampler_init_top_p(0.6, 4)),
]


@pytest.mark.parametrize(("sampler", "make"), RAW, ids=[repr(sampler) for sampler, _ in RAW])
def test_the_same_as_llama_h(vocab: Vocab, sampler: Sampler, make: Callable[[Vocab], Any]) -> None:
    """Twenty rounds on one row: candidates, logits, selection and the state between them."""
    row = next(iter(rows(1, 60))) * 8
    expected = raw_run(make(vocab), row, 20)
    steps = [sampler] if sampler.selects else [sampler, Greedy()]
    with SamplerChain(steps, vocab) as chain:
        for ids, logits, selected in expected:
            got_ids, got_logits, got_selected = chain.apply(row)
            assert got_ids.tolist() == ids
            np.testing.assert_array_equal(got_logits, np.array(logits, dtype=np.float32))
            if sampler.selects:
                assert got_selected == selected
            chain.accept(ids[max(selected, 0)])


# -- beside numpy


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5])
def test_top_n_sigma(vocab: Vocab, n: float) -> None:
    for row in rows():
        row[7:20] = -np.inf
        finite = row[np.isfinite(row)].astype(np.float64)
        bound = finite.max() - n * finite.std()
        assert left(vocab, row, TopNSigma(n)) == {i: x for i, x in enumerate(row.tolist()) if x >= bound}
    assert len(left(vocab, row, TopNSigma(-1.0))) == len(finite)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_typical(vocab: Vocab, p: float) -> None:
    for row in rows():
        prob = softmax(row)
        entropy = -(prob * np.log(prob)).sum()
        order = np.argsort(np.abs(-np.log(prob) - entropy), kind="stable")
        n = int(np.searchsorted(np.cumsum(prob[order]), p, side="right")) + 1
        assert set(left(vocab, row, Typical(p))) == set(order[:n].tolist())


@pytest.mark.parametrize(("t", "spread", "exponent"), [(0.8, 0.5, 1.0), (0.3, 0.6, 2.0), (1.0, 0.9, 0.5)])
def test_dynamic_temperature(vocab: Vocab, t: float, spread: float, exponent: float) -> None:
    for row in rows():
        prob = softmax(row)
        normal = -(prob * np.log(prob)).sum() / math.log(len(row))
        low, high = max(0.0, t - spread), t + spread
        temperature = low + (high - low) * normal**exponent
        got = left(vocab, row, DynamicTemperature(t, spread, exponent))
        np.testing.assert_allclose([got[i] for i in range(len(row))], row / temperature, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3, 0.5])
def test_xtc(vocab: Vocab, threshold: float) -> None:
    n_changed = 0
    for row in rows():
        prob = softmax(row)
        top = [int(i) for i in np.argsort(-prob) if prob[i] >= threshold]
        assert set(left(vocab, row, XTC(1.0, threshold, 1))) == set(range(len(row))) - set(top[:-1])
        n_changed += len(top) > 1
    assert n_changed or threshold == 0.5


def test_xtc_happens_as_often_as_asked(vocab: Vocab) -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    with SamplerChain([XTC(0.3, 0.25, 4), Greedy()], vocab) as chain:
        n = sum(len(chain.apply(row)[0]) == 3 for _ in range(3000))
    assert n / 3000 == pytest.approx(0.3, abs=0.03)
    assert len(left(vocab, row, XTC(1.0, 0.51, 1))) == 4
    assert len(left(vocab, row, XTC(0.0, 0.1, 1))) == 4
    assert len(left(vocab, row, XTC(1.0, 0.25, 1, min_keep=4))) == 4


@pytest.mark.parametrize(("tau", "eta"), [(2.0, 0.3), (4.0, 0.1)])
def test_mirostat_1(vocab: Vocab, tau: float, eta: float) -> None:
    """Algorithm 1 of the paper, with the slope from the 50 likeliest tokens."""
    mu = 2 * tau
    with SamplerChain([Mirostat(3, tau, eta, 50)], vocab) as chain:
        for row in rows(25):
            prob = np.sort(softmax(row))[::-1]
            i = np.arange(1, 50)
            t, b = np.log((i + 1) / i), np.log(prob[:49] / prob[1:50])
            s = (t * b).sum() / (t * t).sum()
            epsilon = s - 1
            k = ((epsilon * 2**mu) / (1 - vocab.n_tokens**-epsilon)) ** (1 / s)
            ids, _, selected = chain.apply(row)
            assert len(ids) == min(max(int(k), 1), len(row))
            kept = softmax(row[ids])
            mu -= eta * (-math.log2(kept[selected]) - tau)


@pytest.mark.parametrize(("tau", "eta"), [(2.0, 0.3), (4.0, 0.1)])
def test_mirostat_2(vocab: Vocab, tau: float, eta: float) -> None:
    mu = 2 * tau
    with SamplerChain([MirostatV2(3, tau, eta)], vocab) as chain:
        for row in rows(25):
            ids, _, selected = chain.apply(row)
            surprise = -np.log2(softmax(row))
            expected = set(np.flatnonzero(surprise <= mu).tolist()) or {int(row.argmax())}
            assert set(ids.tolist()) == expected
            mu -= eta * (-math.log2(softmax(row[ids])[selected]) - tau)


def test_adaptive_p(vocab: Vocab) -> None:
    """The average of the accepted tokens' probabilities moves the target; the logits fall off around it."""
    target, decay = 0.3, 0.8
    weighted, total = target / (1 - decay), 1 / (1 - decay)
    with SamplerChain([AdaptiveP(3, target, decay)], vocab) as chain:
        for row in rows(25, 12):
            prob = softmax(row)
            adapted = min(max(2 * target - weighted / total, 0.0), 1.0)
            distance = np.abs(prob - adapted) / 0.3
            ids, logits, selected = chain.apply(row)
            np.testing.assert_allclose(logits, 5 - 10 * distance**2 / (1 + distance), rtol=1e-4, atol=1e-4)
            chain.accept(int(ids[selected]))
            weighted, total = prob[ids[selected]] + decay * weighted, 1 + decay * total


def dry_penalties(
    history: list[int], breakers: set[int], multiplier: float, base: float, allowed: int, last_n: int
) -> dict[int, float]:
    """For each token that would continue a repetition, by looking at every place in the history."""
    history = history[-last_n:]
    limit = next((n for n, token in enumerate(reversed(history)) if token in breakers), len(history))
    longest: dict[int, int] = {}
    for j in range(1, len(history)):
        n = 0
        while n < min(j, limit) and history[j - 1 - n] == history[-1 - n]:
            n += 1
        if n >= allowed and history[j] not in breakers:
            longest[history[j]] = max(longest.get(history[j], 0), n)
    if limit < allowed or len(history) <= allowed:
        return {}
    return {token: multiplier * base ** (n - allowed) for token, n in longest.items()}


@pytest.mark.parametrize(("allowed", "last_n"), [(0, 64), (1, 30), (2, 64), (3, 24)])
@pytest.mark.parametrize("breaker", ["", "e"])
def test_dry(vocab: Vocab, allowed: int, last_n: int, breaker: str) -> None:
    rng = np.random.default_rng(1)
    some = [300, 301, 302, 303, next(t for t in range(259, 512) if vocab.piece(t) == b"e")]
    broken = {t for t in range(vocab.n_tokens) if breaker and breaker.encode() in vocab.piece(t)}
    row = np.zeros(vocab.n_tokens, dtype=np.float32)
    penalised = 0
    sampler = Dry(0.8, 1.3, allowed, last_n, (breaker,) if breaker else ())
    with SamplerChain([sampler, Greedy()], vocab) as chain:
        history: list[int] = []
        for _ in range(300):
            expected = np.zeros(vocab.n_tokens)
            for token, penalty in dry_penalties(history, broken, 0.8, 1.3, allowed, last_n).items():
                expected[token] = -penalty
            np.testing.assert_allclose(chain.apply(row)[1], expected, rtol=1e-5, atol=1e-6)
            penalised += bool(expected.any())
            history.append(int(rng.choice(some)))
            chain.accept(history[-1])
    assert penalised > (30 if allowed < 3 else 3)


def test_infill_ends_where_the_end_is_likely(vocab: Vocab) -> None:
    assert vocab.eos is not None
    tokens = np.array([vocab.eos, 300, 301], dtype=np.int32)
    with SamplerChain([Infill(), Greedy()], vocab) as chain:
        ids, _, _ = chain.apply(np.log(np.array([0.3, 0.4, 0.3], dtype=np.float32)), ids=tokens)
        assert ids.tolist() == [vocab.eos]
        ids, _, _ = chain.apply(np.log(np.array([0.001, 0.8, 0.199], dtype=np.float32)), ids=tokens)
        assert ids.tolist() == [300, vocab.eos]


# -- edges


EDGES = [
    Typical(0.5),
    TopNSigma(1.0),
    XTC(1.0, 0.1, 1),
    DynamicTemperature(0.8, 0.5),
    DynamicTemperature(0.0, 0.5, 0.0),
    Penalties(64, 1.1),
    Dry(1.0),
    Infill(),
    TopK(3),
    Dist(1),
    Mirostat(1),
    Mirostat(1, 0.0, 0.0, 1),
    MirostatV2(1, 0.0),
    AdaptiveP(1, 0.0),
    AdaptiveP(1, 1.0, 0.99),
]


@pytest.mark.parametrize("sampler", EDGES, ids=repr)
def test_rows_at_the_edge(vocab: Vocab, sampler: Sampler) -> None:
    """One candidate, all equal, all forbidden but one, the largest floats: something is selected, each time."""
    one = np.full(40, -np.inf, dtype=np.float32)
    one[30] = 1.5
    edges: list[NDArray[Any]] = [np.ones(1), np.ones(40), one, np.full(2, 3.4e38), np.array([-3.4e38, 3.4e38])]
    steps = [sampler] if sampler.selects else [sampler, Greedy()]
    with SamplerChain(steps, vocab) as chain:
        for _ in range(2):
            for row in edges:
                ids, _, selected = chain.apply(row)
                assert 0 <= selected < len(ids)
                chain.accept(int(ids[selected]))
        with pytest.raises(SamplerError, match="every logit is -inf"):
            chain.apply(np.full(40, -np.inf, dtype=np.float32))
        with pytest.raises(SamplerError, match="NaN, first at index 2"):
            chain.apply(np.array([1, 2, np.nan, np.nan], dtype=np.float32))
        ids, _, selected = chain.apply(one)
        if not isinstance(sampler, Infill):  # it may end the text instead
            assert ids[selected] == 30
