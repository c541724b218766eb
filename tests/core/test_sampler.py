"""SamplerChain: what each sampler does to logits, and the chain's state."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from llama_cffi import Batch, Context, Model, SamplerChain, Vocab
from llama_cffi._util.seed import MAX_SEED
from llama_cffi.core.sampler import (
    Dist,
    Grammar,
    Greedy,
    LogitBias,
    MinP,
    Penalties,
    Sampler,
    Temperature,
    TopK,
    TopP,
)
from llama_cffi.errors import BusyError, GrammarError, SamplerError, TokenError

pytest_plugins = ["tests.support.models"]

LOGITS = np.log(np.array([0.05, 0.4, 0.25, 0.2, 0.1], dtype=np.float32))


@pytest.fixture
def vocab(model: Model) -> Vocab:
    return model.vocab


def remaining(vocab: Vocab, *samplers: Sampler) -> list[int]:
    """Tokens left of LOGITS with a logit above -inf, in order of their ids."""
    with SamplerChain([*samplers, Greedy()], vocab) as chain:
        ids, logits, _ = chain.apply(LOGITS)
    return sorted(ids[np.isfinite(logits)].tolist())


def test_greedy_selects_the_largest(vocab: Vocab) -> None:
    with SamplerChain([Greedy()], vocab) as chain:
        ids, logits, selected = chain.apply(LOGITS)
        assert ids[selected] == 1
        np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize(
    ("sampler", "left"),
    [
        (TopK(2), [1, 2]),
        (TopK(0), [0, 1, 2, 3, 4]),
        (TopK(-5), [0, 1, 2, 3, 4]),
        (TopK(10**12), [0, 1, 2, 3, 4]),
        (TopP(0.6), [1, 2]),
        (TopP(0.7), [1, 2, 3]),
        (TopP(0.0), [1]),
        (TopP(0.0, min_keep=3), [1, 2, 3]),
        (TopP(1.0), [0, 1, 2, 3, 4]),
        (MinP(0.49), [1, 2, 3]),
        (MinP(1.0), [1]),
        (MinP(0.0), [0, 1, 2, 3, 4]),
        (Temperature(0.0), [1]),
        (LogitBias({1: -math.inf, 3: -math.inf}), [0, 2, 4]),
    ],
)
def test_what_is_left(vocab: Vocab, sampler: Sampler, left: list[int]) -> None:
    assert remaining(vocab, sampler) == left


def test_temperature_divides(vocab: Vocab) -> None:
    with SamplerChain([Temperature(0.5), Greedy()], vocab) as chain:
        np.testing.assert_allclose(chain.apply(LOGITS)[1], LOGITS / 0.5, rtol=1e-6)


def test_logit_bias_adds(vocab: Vocab) -> None:
    with SamplerChain([LogitBias({0: 2.5, 3: -1.0}), Greedy()], vocab) as chain:
        _, logits, selected = chain.apply(LOGITS)
    np.testing.assert_allclose(logits - LOGITS, [2.5, 0, 0, -1, 0], atol=1e-6)
    assert selected == 0


def test_penalties_follow_what_was_accepted(vocab: Vocab) -> None:
    logits = np.array([2.0, -2.0, 1.0, 1.0], dtype=np.float32)
    with SamplerChain([Penalties(3, repeat=2.0, freq=0.25, present=0.5), Greedy()], vocab) as chain:
        np.testing.assert_array_equal(chain.apply(logits)[1], logits)
        for token in (3, 0, 1, 1):
            chain.accept(token)
        # Token 3 has left the window of three; token 1 is in it twice.
        np.testing.assert_allclose(chain.apply(logits)[1], [1.0 - 0.75, -4.0 - 1.0, 1.0, 1.0])
        chain.reset()
        np.testing.assert_array_equal(chain.apply(logits)[1], logits)


def test_dist_draws_from_the_distribution(vocab: Vocab) -> None:
    with SamplerChain([Dist(11)], vocab) as chain:
        drawn = [int(chain.apply(LOGITS)[2]) for _ in range(4000)]
    frequencies = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(frequencies, np.exp(LOGITS), atol=0.03)


def test_dist_repeats_with_its_seed(vocab: Vocab) -> None:
    def draw(chain: SamplerChain) -> list[int]:
        return [int(chain.apply(LOGITS)[2]) for _ in range(50)]

    with SamplerChain([Dist(11)], vocab) as one, SamplerChain([Dist(11)], vocab) as two:
        first = draw(one)
        assert draw(two) == first
        assert draw(two) != first
        one.reset()
        assert draw(one) == first
    with SamplerChain([Dist(12)], vocab) as other:
        assert draw(other) != first


def test_apply_to_some_tokens(vocab: Vocab) -> None:
    with SamplerChain([TopK(2), Greedy()], vocab) as chain:
        ids, logits, selected = chain.apply(np.array([1.0, 3.0, 2.0], dtype=np.float32), ids=np.array([500, 7, 9]))
    assert ids.tolist() == [7, 9]
    assert logits.tolist() == [3.0, 2.0]
    assert selected == 0


def test_apply_refuses(vocab: Vocab) -> None:
    with SamplerChain([Greedy()], vocab) as chain:
        for shape in ((0,), (2, 2), (513,)):
            with pytest.raises(SamplerError, match="shape"):
                chain.apply(np.zeros(shape, dtype=np.float32))
        with pytest.raises(TokenError, match="token 512"):
            chain.apply(np.zeros(1, dtype=np.float32), ids=np.array([512], dtype=np.int32))


def test_sample_accepts(context: Context) -> None:
    """Once, not twice: a second accept would advance penalties and grammar again."""
    vocab = context.model.vocab
    batch = Batch(1)
    batch.add(1, 0, output=True)
    context.decode(batch)
    logits = context.outputs.logits()
    with SamplerChain([Penalties(64, freq=1.0), Greedy()], vocab) as chain:
        token = chain.sample(context)
        assert token == int(logits.argmax())
        _, after, _ = chain.apply(logits)
        difference = logits - after
        assert difference[token] == pytest.approx(1.0, abs=1e-5)
        assert np.count_nonzero(difference) == 1


def test_clone_continues_alone(vocab: Vocab) -> None:
    with SamplerChain([Penalties(64, freq=1.0), Dist(3)], vocab) as chain:
        chain.accept(2)
        with chain.clone() as twin:
            assert len(twin) == len(chain) == 2
            one, two = ([int(each.apply(LOGITS)[2]) for _ in range(30)] for each in (chain, twin))
            assert one == two
            chain.accept(2)
            position = chain.apply(LOGITS)[0].tolist().index(2)
            assert chain.apply(LOGITS)[1][position] != twin.apply(LOGITS)[1][position]
        assert twin.closed
        assert not chain.closed


def test_one_thread_at_a_time(vocab: Vocab) -> None:
    with SamplerChain([Greedy()], vocab) as chain:
        errors: list[Exception] = []

        def work() -> None:
            try:
                chain.apply(LOGITS)
            except BusyError as error:
                errors.append(error)

        with chain._gate:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            with pytest.raises(BusyError, match="inside its own call"):
                chain.close()
        assert len(errors) == 1
        assert chain.apply(LOGITS)[2] == 1


def test_the_chain_runs_in_order(vocab: Vocab) -> None:
    bias_first = [LogitBias({0: 5.0}), TopK(1)]
    assert remaining(vocab, *bias_first) == [0]
    assert remaining(vocab, *bias_first[::-1]) == [1]


# -- grammar


def token_of(vocab: Vocab, piece: bytes) -> int:
    return next(token for token in range(259, vocab.n_tokens) if vocab.piece(token) == piece)


def allowed(chain: SamplerChain, vocab: Vocab) -> set[bytes]:
    """Pieces that the chain's grammar allows next; end of generation is b"<eog>"."""
    ids, logits, _ = chain.apply(np.zeros(vocab.n_tokens, dtype=np.float32))
    tokens = ids[np.isfinite(logits)].tolist()
    return {b"<eog>" if vocab.is_eog(token) else vocab.piece(token) for token in tokens}


def test_a_grammar_allows_what_it_derives(vocab: Vocab) -> None:
    with SamplerChain([Grammar('root ::= "ab" [0-2]?'), Greedy()], vocab) as chain:
        assert allowed(chain, vocab) == {b"a"}
        chain.accept(token_of(vocab, b"a"))
        assert allowed(chain, vocab) == {b"b"}
        chain.accept(token_of(vocab, b"b"))
        assert allowed(chain, vocab) == {b"0", b"1", b"2", b"<eog>"}
        chain.accept(token_of(vocab, b"2"))
        assert allowed(chain, vocab) == {b"<eog>"}
        assert vocab.eos is not None
        chain.accept(vocab.eos)


def test_a_clone_of_a_grammar_has_its_own_place(vocab: Vocab) -> None:
    with SamplerChain([Grammar('root ::= "ab"'), Greedy()], vocab) as chain:
        chain.accept(token_of(vocab, b"a"))
        with chain.clone() as twin:
            chain.accept(token_of(vocab, b"b"))
            assert allowed(twin, vocab) == {b"b"}
            assert allowed(chain, vocab) == {b"<eog>"}


def test_another_root(vocab: Vocab) -> None:
    with SamplerChain([Grammar('root ::= "a"\nother ::= "b"', "other"), Greedy()], vocab) as chain:
        assert allowed(chain, vocab) == {b"b"}
    with pytest.raises(GrammarError, match=r"(?s)missing"):
        SamplerChain([Grammar('root ::= "a"', "missing"), Greedy()], vocab)


# -- parameters


@pytest.mark.parametrize(
    "sampler",
    [
        TopP(-0.1),
        TopP(1.1),
        TopP(math.nan),
        TopP(0.5, min_keep=-1),
        MinP(-0.1),
        MinP(math.nan),
        Temperature(math.nan),
        Temperature(math.inf),
        Penalties(-1),
        Penalties(2**31),
        Penalties(64, repeat=0.0),
        Penalties(64, repeat=math.nan),
        Penalties(64, freq=math.inf),
        LogitBias({5: math.nan}),
        LogitBias({5: math.inf}),
        Dist(-1),
        Dist(MAX_SEED + 1),
    ],
    ids=repr,
)
def test_parameters_out_of_range(vocab: Vocab, sampler: Sampler) -> None:
    with pytest.raises(SamplerError):
        SamplerChain([sampler, Greedy()], vocab)


@pytest.mark.parametrize("token", [-1, 512])
def test_a_bias_outside_the_vocabulary(vocab: Vocab, token: int) -> None:
    with pytest.raises(TokenError, match=f"token {token} is outside"):
        SamplerChain([LogitBias({token: 1.0}), Greedy()], vocab)


def test_a_chain_that_was_not_made_leaves_nothing(model: Model) -> None:
    before = len(model.handle._children)
    with pytest.raises(SamplerError):
        SamplerChain([TopK(5), TopP(7.0), Greedy()], model.vocab)
    assert len(model.handle._children) == before


def test_samplers_are_values(vocab: Vocab) -> None:
    assert TopK(5) == TopK(5)
    assert {Dist(1), Dist(1), Dist(2)} == {Dist(1), Dist(2)}
    with SamplerChain([TopK(5), Greedy()], vocab) as chain:
        assert chain.samplers == (TopK(5), Greedy())
        assert repr(chain) == "SamplerChain([TopK(k=5), Greedy()])"
