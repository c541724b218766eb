"""Any samplers in any order with any parameters: nothing crashes, clones are equal, a reset starts again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_cffi import Model, SamplerChain, Vocab
from llama_cffi._native import binding, guard, helpers
from llama_cffi._util.ranges import MAX_HISTORY
from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
    Dist,
    Dry,
    DynamicTemperature,
    Greedy,
    Infill,
    LazyGrammar,
    LogitBias,
    MinP,
    Mirostat,
    MirostatV2,
    Penalties,
    Sampler,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    adaptive_draws,
)
from llama_cffi.core.sampler.python import Workspace
from llama_cffi.errors import GrammarError, SamplerError, TokenError, UnsupportedError

pytest_plugins = ["tests.support.models"]

parts = st.floats(0, 1, width=32)
small = st.floats(0, 4, width=32)
seeds = st.integers(0, 2**32 - 2)
keeps = st.integers(0, 5)
signed = st.floats(-3, 3, width=32)

SELECTING: tuple[st.SearchStrategy[Sampler], ...] = (
    st.just(Greedy()),
    st.builds(Dist, seeds),
    st.builds(Mirostat, seeds, small, parts, st.integers(1, 200)),
    st.builds(MirostatV2, seeds, small, parts),
    st.builds(AdaptiveP, seeds, st.floats(-1, 1, width=32), st.floats(0, 0.875, width=32)),
)
ANY: tuple[st.SearchStrategy[Sampler], ...] = (
    *SELECTING,
    st.builds(TopK, st.integers(-1, 300)),
    st.builds(TopP, parts, keeps),
    st.builds(MinP, parts, keeps),
    st.builds(Typical, parts, keeps),
    st.builds(TopNSigma, signed),
    st.builds(XTC, parts, parts, seeds, keeps),
    st.builds(Temperature, signed),
    st.builds(DynamicTemperature, signed, small, small),
    st.builds(Penalties, st.integers(0, 20), st.floats(0.5, 2, width=32), signed, signed),
    st.builds(Dry, small, st.floats(1, 3, width=32), st.integers(0, 4), st.integers(0, 30), st.just(("a", "th"))),
    st.builds(LogitBias, st.dictionaries(st.integers(0, 511), signed, max_size=5)),
    st.just(Infill()),
)
chains = st.tuples(st.lists(st.one_of(ANY), max_size=6), st.one_of(SELECTING)).map(lambda both: [*both[0], both[1]])

Round = tuple[list[int], NDArray[np.float32], int]


@pytest.fixture(scope="module")
def vocab(model: Model) -> Vocab:
    return model.vocab


def play(chain: SamplerChain, rows: list[NDArray[np.float32]]) -> list[Round]:
    """What the chain makes of the rows, each accepted."""
    rounds = []
    for row in rows:
        ids, logits, selected = chain.apply(row)
        assert 0 <= selected < len(ids) <= len(row)
        assert len(set(ids.tolist())) == len(ids)
        chain.accept(int(ids[selected]))
        rounds.append((ids.tolist(), logits, selected))
    return rounds


def assert_equal(one: list[Round], two: list[Round]) -> None:
    for (ids, logits, selected), (other_ids, other_logits, other_selected) in zip(one, two, strict=True):
        assert (ids, selected) == (other_ids, other_selected)
        np.testing.assert_array_equal(logits, other_logits)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=chains, seed=st.integers(0, 1000), scale=st.floats(0.1, 20), n=st.sampled_from([1, 2, 40, 200]))
def test_any_chain(vocab: Vocab, steps: list[Sampler], seed: int, scale: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(0, scale, n).astype(np.float32) for _ in range(8)]
    for row in rows[4:]:
        row[rng.random(n) < 0.3] = -np.inf
        row[0] = 0.0
    with SamplerChain(steps, vocab) as chain:
        assert repr(chain) == f"SamplerChain({steps!r})"
        with chain.clone() as fresh:
            first = play(chain, rows[:5])
            assert_equal(play(fresh, rows[:5]), first)
        with chain.clone() as twin:
            assert twin.samplers == chain.samplers
            assert_equal(play(twin, rows), play(chain, rows))
        chain.reset()
        assert_equal(play(chain, rows[:5]), first)


@pytest.mark.parametrize("steps", [
    [AdaptiveP(5, 0.3)],
    [AdaptiveP(5, -1.0)],
    [Temperature(1.3), TopK(3), AdaptiveP(2**32 - 2, 0.5, 0.5)],
    [TopK(20), AdaptiveP(5, 0.1), MinP(0.2), AdaptiveP(6, 0.6), Dist(7)],
])  # fmt: skip
def test_a_clone_with_adaptive_p_draws_on_as_the_original(vocab: Vocab, steps: list[Sampler]) -> None:
    rng = np.random.default_rng(4)
    rows = [rng.normal(0, 2, n).astype(np.float32) for n in rng.choice([1, 2, 7, 300], 60)]
    with SamplerChain(steps, vocab) as chain:
        play(chain, rows[:30])
        # Between a draw and its accept, too; and when a token of another kind was accepted.
        for accepted in (None, 3, "drawn"):
            ids, _, selected = chain.apply(rows[30])
            drawn = int(ids[selected])
            if accepted == 3:
                chain.accept((drawn + 1) % 512)
            with chain.clone() as twin, twin.clone() as third:
                if accepted == "drawn":
                    for one in (chain, twin, third):
                        one.accept(drawn)
                expected = play(chain, rows)
                assert_equal(play(twin, rows), expected)
                assert_equal(play(third, rows), expected)
        chain.reset()
        with chain.clone() as twin, SamplerChain(steps, vocab) as fresh:
            expected = play(fresh, rows)
            assert_equal(play(twin, rows), expected)
            assert_equal(play(chain, rows), expected)


def test_an_adaptive_p_that_cannot_be_copied_says_so(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_draws, "_continues", lambda: False)
    with SamplerChain([AdaptiveP(5, 0.3)], vocab) as chain:
        chain.clone().close()
        chain.apply(np.zeros(8, dtype=np.float32))
        with pytest.raises(SamplerError, match="unknown way"):
            chain.clone()
        chain.reset()
        chain.clone().close()


def test_a_library_whose_clone_does_not_continue_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adaptive_draws._continues()
    original = guard.sampler_clone

    def with_a_draw_more(native: Any, cell: list[Any]) -> Any:
        twin = original(native, cell)
        array = Workspace().fill(np.zeros(2, dtype=np.float32))
        guard.sampler_apply(twin, array)
        return twin

    monkeypatch.setattr(guard, "sampler_clone", with_a_draw_more)
    assert not adaptive_draws._continues.__wrapped__()


def test_a_prompt_is_for_what_looks_back(vocab: Vocab) -> None:
    """Penalties and DRY see it, within their own windows; a grammar does not."""
    row = np.zeros(vocab.n_tokens, dtype=np.float32)
    with SamplerChain([Penalties(2, freq=1.0), Dry(1.0, 2.0, 1, 64, ()), Greedy()], vocab) as chain:
        chain.accept_prompt(np.array([300, 301, 302, 300]))
        changed = dict(enumerate(chain.apply(row)[1].tolist()))
        assert {token: x for token, x in changed.items() if x} == {300: -1.0, 301: -1.0, 302: -1.0}
        with pytest.raises(TokenError):
            chain.accept_prompt([512])


# -- lazy grammar


def token_of(vocab: Vocab, piece: bytes) -> int:
    return next(token for token in range(259, vocab.n_tokens) if vocab.piece(token) == piece)


@pytest.fixture
def compiled() -> None:
    if helpers.KIND == "python":
        pytest.skip("a lazy grammar needs the compiled helpers")


def allowed(chain: SamplerChain, vocab: Vocab) -> set[bytes]:
    ids, logits, _ = chain.apply(np.zeros(vocab.n_tokens, dtype=np.float32))
    return {vocab.piece(token) for token in ids[np.isfinite(logits)].tolist() if not vocab.is_eog(token)}


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("by", ["pattern", "token"])
def test_a_lazy_grammar_waits_for_its_trigger(vocab: Vocab, by: str) -> None:
    a, b = token_of(vocab, b"a"), token_of(vocab, b"b")
    grammar = (
        LazyGrammar('root ::= "ab" [0-2]', patterns=("b.*(a)",))
        if by == "pattern"
        else LazyGrammar('root ::= "ab" [0-2]', tokens=(a,))
    )
    with SamplerChain([grammar, Greedy()], vocab) as chain:
        everything = allowed(chain, vocab)
        assert len(everything) > 200
        chain.accept(b)
        assert allowed(chain, vocab) == everything
        with chain.clone() as twin:
            for one in (chain, twin):
                one.accept(a)
                assert allowed(one, vocab) == {b"b"}
        chain.accept(b)
        assert allowed(chain, vocab) == {b"0", b"1", b"2"}
        with pytest.raises(GrammarError):
            chain.accept(a)
        chain.reset()
        assert allowed(chain, vocab) == everything


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("grammar", "error", "words"),
    [
        (LazyGrammar('root ::= "a"'), GrammarError, "without a trigger"),
        (LazyGrammar('root ::= "a"', patterns=("(",)), GrammarError, "cannot be used"),
        (LazyGrammar('root ::= "a"', patterns=("",)), GrammarError, "non-empty"),
        (LazyGrammar('root ::= "a"', patterns="a"), GrammarError, "non-empty strings"),  # type: ignore[arg-type]
        (LazyGrammar('root ::= "a"', patterns=("a\0",)), GrammarError, "NUL"),
        (LazyGrammar("root ::= (", patterns=("a",)), GrammarError, "does not parse"),
        (LazyGrammar('root ::= "a"', tokens=(512,)), TokenError, "trigger token 512"),
    ],
    ids=repr,
)
def test_lazy_grammars_that_are_none(vocab: Vocab, grammar: Sampler, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SamplerChain([grammar, Greedy()], vocab)


def test_a_lazy_grammar_without_helpers(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "KIND", "python")
    with pytest.raises(UnsupportedError, match="compiled helpers"):
        SamplerChain([LazyGrammar('root ::= "a"', patterns=("a",)), Greedy()], vocab)


# -- parameters


@pytest.mark.parametrize(
    "sampler",
    [
        Typical(-0.1),
        Typical(math.nan),
        Typical(0.5, min_keep=-1),
        Typical(0.5, min_keep=2**63),
        TopNSigma(math.nan),
        TopNSigma(1e39),
        XTC(1.1, 0.1, 1),
        XTC(0.5, -0.1, 1),
        XTC(0.5, 0.1, -1),
        DynamicTemperature(math.inf, 0.1),
        DynamicTemperature(1.0, -0.1),
        DynamicTemperature(1.0, 0.1, -1.0),
        DynamicTemperature(3e38, 3e38),
        Mirostat(1, tau=-1.0),
        Mirostat(1, eta=math.nan),
        Mirostat(1, m=0),
        Mirostat(-1),
        MirostatV2(1, tau=math.inf),
        MirostatV2(1, eta=-0.1),
        AdaptiveP(1, 1.1),
        AdaptiveP(1, math.nan),
        AdaptiveP(1, 0.5, 1.0),
        Dry(-1.0),
        Dry(1.0, base=0.5),
        Dry(1.0, base=math.nan),
        Dry(1.0, allowed_length=-1),
        Dry(1.0, last_n=-1),
        Dry(1.0, last_n=MAX_HISTORY + 1),
        Dry(1.0, breakers=("",)),
        Dry(1.0, breakers=("a\0b",)),
        Dry(1.0, breakers=("x" * 41,)),
        Dry(1.0, breakers=("\ud800",)),
        Dry(1.0, breakers="ab"),  # type: ignore[arg-type]
        Penalties(MAX_HISTORY + 1),
        Temperature(1e39),
    ],
    ids=repr,
)
def test_parameters_out_of_range(vocab: Vocab, sampler: Sampler) -> None:
    with pytest.raises(SamplerError):
        SamplerChain([sampler, Greedy()], vocab)


def test_a_library_without_a_sampler(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libraries before b7836 are: the error says since when."""
    from llama_cffi.core.sampler import selecting

    class Older:
        def __getattr__(self, name: str) -> Any:
            if name == "llama_sampler_init_adaptive_p":
                from llama_cffi._native.bindings import missing

                raise missing(name)
            return getattr(binding.lib, name)

    monkeypatch.setattr(selecting, "lib", Older())
    with pytest.raises(UnsupportedError, match="llama_sampler_init_adaptive_p") as caught:
        SamplerChain([AdaptiveP(1, 0.5)], vocab)
    assert caught.value.since == "b7836"
