"""Samplers written in Python: what they may do, what they may not, and how long they live."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from llama_cffi import Batch, Context, Model, SamplerChain, Vocab
from llama_cffi.core.sampler import (
    XTC,
    Candidates,
    Dist,
    Grammar,
    Greedy,
    LogitBias,
    Mirostat,
    Penalties,
    PythonSampler,
    Sampler,
    Temperature,
    TopK,
    TopP,
)
from llama_cffi.errors import BusyError, GrammarError, InUseError, SamplerError
from tests.support.children import run_child

pytest_plugins = ["tests.support.models"]

LOGITS = np.log(np.array([0.05, 0.4, 0.25, 0.2, 0.1], dtype=np.float32))


@pytest.fixture
def vocab(model: Model) -> Vocab:
    return model.vocab


@dataclass(eq=False)
class Call(PythonSampler):
    """Runs a function; remembers what it accepted."""

    function: Any = lambda candidates: None
    accepted: list[int] = field(default_factory=list)
    resets: int = 0

    def apply(self, candidates: Candidates) -> None:
        self.function(candidates)

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def reset(self) -> None:
        self.accepted.clear()
        self.resets += 1

    def clone(self) -> Call:
        return Call(self.function, list(self.accepted))


class Last(PythonSampler):
    """Selects the last candidate; cannot be cloned."""

    selects = True

    def apply(self, candidates: Candidates) -> None:
        candidates.select(len(candidates) - 1)


def tokens_left(vocab: Vocab, *samplers: Sampler) -> list[int]:
    with SamplerChain([*samplers, Greedy()], vocab) as chain:
        ids, logits, _ = chain.apply(LOGITS)
        return [int(i) for i in ids[np.isfinite(logits)]]


# -- what it sees and does


def test_what_it_sees(vocab: Vocab) -> None:
    seen = []

    def look(candidates: Candidates) -> None:
        seen.append((candidates.ids.tolist(), candidates.logits.copy(), candidates.sorted, candidates.selected))
        assert len(candidates) == candidates.size == len(candidates.p)
        assert repr(candidates) == f"<Candidates: {candidates.size}>"

    with SamplerChain([Call(look), TopK(3), Call(look), Dist(1)], vocab) as chain:
        chain.apply(LOGITS)
    (all_ids, all_logits, first_sorted, selected), (ids, logits, second_sorted, _) = seen
    assert (all_ids, first_sorted, selected) == ([0, 1, 2, 3, 4], False, None)
    np.testing.assert_array_equal(all_logits, LOGITS)
    assert (ids, second_sorted) == ([1, 2, 3], True)
    np.testing.assert_array_equal(logits, LOGITS[[1, 2, 3]])


def test_it_sees_the_probabilities_of_the_sampler_before(vocab: Vocab) -> None:
    seen = []
    with SamplerChain([TopP(0.99), Call(lambda c: seen.append(c.p.copy())), Greedy()], vocab) as chain:
        chain.apply(LOGITS)
    np.testing.assert_allclose(seen[0], np.exp(LOGITS[[1, 2, 3, 4, 0]]), rtol=1e-5)


def test_it_changes_logits(vocab: Vocab) -> None:
    def forbid(candidates: Candidates) -> None:
        candidates.logits[candidates.ids == 1] = -np.inf

    assert tokens_left(vocab, Call(forbid)) == [0, 2, 3, 4]
    # After a sampler that sorted: the next one must not trust the order.
    with SamplerChain([TopK(5), Call(forbid), TopK(1), Greedy()], vocab) as chain:
        assert chain.apply(LOGITS)[0].tolist() == [2]


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ([4, 0, 2], [4, 0, 2]),
        (np.array([False, True, True, False, False]), [1, 2]),
        (np.array([3]), [3]),
        ([-1], [4]),
        (slice(None), None),
    ],
)
def test_it_reorders_and_leaves_out(vocab: Vocab, which: Any, left: list[int] | None) -> None:
    if left is None:
        with pytest.raises(SamplerError, match="keep"):
            tokens_left(vocab, Call(lambda candidates: candidates.keep(which)))
    else:
        assert tokens_left(vocab, Call(lambda candidates: candidates.keep(which))) == left


def test_it_shrinks(vocab: Vocab) -> None:
    def shrink(candidates: Candidates) -> None:
        candidates.select(3)
        candidates.size = np.int64(2)
        assert candidates.selected is None
        assert candidates.ids.tolist() == [0, 1]

    assert tokens_left(vocab, Call(shrink)) == [0, 1]


def test_it_selects(vocab: Vocab) -> None:
    with SamplerChain([TopK(3), Last()], vocab) as chain:
        ids, _, selected = chain.apply(LOGITS)
        assert ids[selected] == 3
    with SamplerChain([Last(), Greedy()], vocab) as chain:
        assert chain.apply(LOGITS)[2] == 1


def test_it_follows_a_sampler_that_moves_the_array(vocab: Vocab) -> None:
    """XTC drops the first candidates by moving the pointer to them."""
    seen = []
    with SamplerChain([XTC(1.0, 0.15, 1), Call(lambda c: seen.extend(c.ids.tolist())), Dist(1)], vocab) as chain:
        chain.apply(LOGITS)
    assert sorted(seen) == [0, 3, 4]


def test_it_accepts_and_resets(vocab: Vocab) -> None:
    sampler = Call()
    with SamplerChain([sampler, Greedy()], vocab) as chain:
        chain.accept_prompt([7, 8, 7])
        chain.accept(3)
        assert sampler.accepted == [7, 8, 7, 3]
        chain.reset()
        assert (sampler.accepted, sampler.resets) == ([], 1)


def test_sample_accepts_once(context: Context) -> None:
    batch = Batch(1)
    batch.add(1, 0, output=True)
    context.decode(batch)
    sampler, vocab = Call(), context.model.vocab
    with SamplerChain([sampler, TopK(40), Temperature(0.8), Dist(5)], vocab) as chain:
        with SamplerChain([TopK(40), Temperature(0.8), Dist(5)], vocab) as plain:
            tokens = [chain.sample(context) for _ in range(20)]
            assert tokens == [plain.sample(context) for _ in range(20)]
        assert sampler.accepted == tokens


def test_views_that_outlive_the_call(vocab: Vocab) -> None:
    """They show other numbers later, never memory that was given back."""
    kept: list[Any] = []
    chain = SamplerChain([Call(lambda c: kept.append((c, c.logits, c.ids))), Greedy()], vocab)
    chain.apply(LOGITS)
    chain.apply(np.zeros(300, dtype=np.float32))
    chain.close()
    del chain
    gc.collect()
    for candidates, logits, ids in kept:
        logits[:] = 1.0
        assert ids.tolist() == list(range(candidates.size))


# -- what goes wrong


def test_ids_are_read_only(vocab: Vocab) -> None:
    def write(candidates: Candidates) -> None:
        candidates.ids[0] = 10**6

    with pytest.raises(ValueError, match="read-only"):
        tokens_left(vocab, Call(write))


def set_size(size: int) -> Any:
    def function(candidates: Candidates) -> None:
        candidates.size = size

    return function


def put(value: float) -> Any:
    def function(candidates: Candidates) -> None:
        candidates.logits[3] = value

    return function


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (set_size(0), "size must be 1 to 5, got 0"),
        (set_size(6), "size must be 1 to 5, got 6"),
        (set_size(-1), "size must be 1 to 5"),
        (lambda c: c.keep([]), "keep"),
        (lambda c: c.keep(np.zeros(5, dtype=bool)), "keep must leave"),
        (lambda c: c.keep([5]), "out of bounds"),
        (lambda c: c.keep([0] * 6), "keep must leave 1 to 5"),
        (lambda c: c.keep([[0, 1]]), "keep must leave"),
        (lambda c: c.keep(np.ones(4, dtype=bool)), "keep"),
        (lambda c: c.select(5), "select: index 5 is outside the 5 candidates"),
        (lambda c: c.select(-1), "select: index -1"),
        (put(np.nan), "after Call, token 3 has the logit nan"),
        (put(np.inf), "after Call, token 3 has the logit inf"),
    ],
)
def test_what_it_may_not_do(vocab: Vocab, function: Any, words: str) -> None:
    sampler = Call(function)
    with SamplerChain([sampler, TopK(2), Penalties(64, 1.1), Mirostat(1)], vocab) as chain:
        for _ in range(2):
            with pytest.raises(SamplerError, match=words):
                chain.apply(LOGITS)
        sampler.function = lambda candidates: None
        assert set(chain.apply(LOGITS)[0].tolist()) <= {1, 2}


def test_large_logits_are_no_infinity(vocab: Vocab) -> None:
    def large(candidates: Candidates) -> None:
        candidates.logits[:] = 3e38

    assert tokens_left(vocab, Call(large)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_its_exceptions_reach_the_caller(context: Context, error: BaseException) -> None:
    batch = Batch(1)
    batch.add(1, 0, output=True)
    context.decode(batch)

    def fail(candidates: Candidates) -> None:
        raise error

    sampler, second = Call(fail), Call()
    with SamplerChain([sampler, second, TopK(5), Dist(1)], context.model.vocab) as chain:
        calls: list[Callable[[], object]] = [lambda: chain.sample(context), lambda: chain.apply(LOGITS)]
        for call in calls:
            with pytest.raises(type(error)) as caught:
                call()
            assert caught.value is error
        # Nothing was accepted, and the chain goes on.
        assert second.accepted == []
        sampler.function = lambda candidates: None
        token = chain.sample(context)
        assert sampler.accepted == second.accepted == [token]


@pytest.mark.parametrize("method", ["accept", "reset"])
def test_exceptions_of_the_other_methods(vocab: Vocab, method: str) -> None:
    class Fails(PythonSampler):
        broken = True

        def apply(self, candidates: Candidates) -> None:
            pass

        def _fail(self) -> None:
            if self.broken:
                raise RuntimeError("mine")

    setattr(Fails, method, lambda self, *token: self._fail())
    sampler, other = Fails(), Call()
    with SamplerChain([sampler, other, Penalties(64, freq=1.0), Greedy()], vocab) as chain:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="mine"):
                chain.accept(3) if method == "accept" else chain.reset()
        # The others were told all the same.
        assert other.accepted == [3, 3] if method == "accept" else other.resets == 2
        sampler.broken = False
        assert chain.apply(LOGITS)[0].tolist() == [0, 1, 2, 3, 4]


def test_it_cannot_use_its_chain_from_inside(vocab: Vocab) -> None:
    chain: SamplerChain
    chain = SamplerChain([Call(lambda candidates: chain.apply(LOGITS)), Greedy()], vocab)
    with pytest.raises(BusyError):
        chain.apply(LOGITS)
    chain = SamplerChain([Call(lambda candidates: chain.close()), Greedy()], vocab)
    with pytest.raises(BusyError):
        chain.apply(LOGITS)
    chain.close()


def test_a_chain_that_selects_nothing(vocab: Vocab) -> None:
    class Forgetful(Last):
        def apply(self, candidates: Candidates) -> None:
            pass

    with SamplerChain([Forgetful()], vocab) as chain, pytest.raises(SamplerError, match="selected none of the 5"):
        chain.apply(LOGITS)


def test_it_is_no_native_sampler(vocab: Vocab) -> None:
    with pytest.raises(SamplerError, match="only a SamplerChain"):
        Call().create(vocab, [])


# -- clones, and who holds whom


def test_a_clone_goes_its_own_way(vocab: Vocab) -> None:
    sampler = Call()
    with SamplerChain([sampler, Penalties(64, freq=1.0), Dist(4)], vocab) as chain:
        chain.accept(2)
        with chain.clone() as twin:
            other = twin.samplers[0]
            assert isinstance(other, Call)
            assert other is not sampler
            assert twin.samplers[1:] == chain.samplers[1:]
            draws = [[int(one.apply(LOGITS)[2]) for _ in range(20)] for one in (chain, twin)]
            assert draws[0] == draws[1]
            twin.accept(3)
            assert (sampler.accepted, other.accepted) == ([2], [2, 3])


@pytest.mark.parametrize(
    ("clone", "error", "words"),
    [
        (None, SamplerError, "cannot be cloned: it has no clone"),
        (lambda self: self, InUseError, "part of a chain already"),
        (lambda self: 7, SamplerError, "must return a PythonSampler, not 7"),
    ],
)
def test_what_cannot_be_cloned(vocab: Vocab, clone: Any, error: type[Exception], words: str) -> None:
    kind = type("Mine", (Last,), {} if clone is None else {"clone": clone})
    with SamplerChain([TopK(3), kind()], vocab) as chain:
        with pytest.raises(error, match=words):
            chain.clone()
        assert chain.apply(LOGITS)[0].tolist() == [1, 2, 3]


def test_one_chain_at_a_time(vocab: Vocab) -> None:
    sampler = Call()
    with pytest.raises(InUseError):
        SamplerChain([sampler, sampler, Greedy()], vocab)
    with pytest.raises(SamplerError, match="top_p"):
        SamplerChain([sampler, TopP(7), Greedy()], vocab)
    chain = SamplerChain([sampler, Greedy()], vocab)
    with pytest.raises(InUseError, match="this Call is part of a chain already"):
        SamplerChain([sampler, Greedy()], vocab)
    with SamplerChain([copy.copy(sampler), Greedy()], vocab):
        pass
    chain.close()
    chain = SamplerChain([sampler, Greedy()], vocab)
    del chain
    SamplerChain([sampler, Greedy()], vocab).close()


@pytest.mark.parametrize("ending", ["close", "drop", "cycle", "failed", "model"])
def test_nothing_is_left(model: Model, model_path: Any, ending: str) -> None:
    """The chain holds the sampler, and nobody else does, whatever came before."""
    base = Model(model_path) if ending == "model" else model
    sampler = Call()
    chain = SamplerChain([sampler, Greedy()], base.vocab)
    alive: list[weakref.ref[Any]] = [weakref.ref(sampler), weakref.ref(chain)]
    chain.apply(LOGITS)
    del sampler
    gc.disable()
    try:
        if ending == "failed":
            vars(chain.samplers[0])["function"] = lambda candidates: 1 / 0
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    chain.apply(LOGITS)
        elif ending == "close":
            chain.close()
        elif ending == "model":
            base.close()
            assert chain.closed
        elif ending == "cycle":
            vars(chain.samplers[0])["chain"] = chain
        del chain, base
        if ending == "cycle":
            gc.collect()
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()


def test_alive_at_exit(model_path: Any) -> None:
    out = run_child(
        """
        import sys
        import numpy as np
        from llama_cffi import Model, SamplerChain
        from llama_cffi.core.sampler import Greedy, PythonSampler

        class Mine(PythonSampler):
            def apply(self, candidates):
                candidates.logits[0] = 100

        model = Model(sys.argv[1])
        sampler = Mine()
        sampler.chain = chain = SamplerChain([sampler, Greedy()], model.vocab)
        print(chain.apply(np.zeros(4, dtype=np.float32))[2])
        """,
        model_path,
    )
    assert out == "0\n"


@pytest.mark.parametrize("repetition", range(4))
def test_exit_while_a_daemon_thread_is_inside(model_path: Any, repetition: int) -> None:
    """The thread ends where it next waits for the interpreter, under llama.cpp's frames."""
    run_child(
        """
        import sys, threading, time
        import numpy as np
        from llama_cffi import Model, SamplerChain
        from llama_cffi.core.sampler import Dist, PythonSampler

        class Slow(PythonSampler):
            def apply(self, candidates):
                for _ in range(50):
                    candidates.logits[0] = -1

        model = Model(sys.argv[1])
        chain = SamplerChain([Slow(), Slow(), Dist(1)], model.vocab)
        started = threading.Event()
        def work():
            while True:
                chain.apply(np.zeros(512, dtype=np.float32))
                started.set()
        threading.Thread(target=work, daemon=True).start()
        assert started.wait(10)
        time.sleep(int(sys.argv[2]) * 0.0007)
        """,
        model_path,
        repetition,
    )


def test_other_calls_from_inside(vocab: Vocab) -> None:
    """Another chain, and a failing one: its error is its own."""
    other = SamplerChain([Grammar('root ::= "a"'), Greedy()], vocab)

    def call(candidates: Candidates) -> None:
        with pytest.raises(GrammarError):
            other.accept(300)
        other.reset()
        candidates.logits[0] = other.apply(LOGITS)[1][0]

    with other:
        assert tokens_left(vocab, Call(call)) == [1, 2, 3, 4]


def test_nan_of_the_model(context: Context) -> None:
    batch = Batch(1)
    batch.add(1, 0, output=True)
    context.decode(batch)
    context.outputs.logits_row(0)[5] = float("nan")
    for steps in ([Greedy()], [Call(), Greedy()]):
        with SamplerChain(steps, context.model.vocab) as chain, pytest.raises(SamplerError, match="NaN, first at"):
            chain.sample(context)


def test_bias_before_and_after(vocab: Vocab) -> None:
    """Order as given: the Python sampler stands where it was put."""

    def double(candidates: Candidates) -> None:
        candidates.logits[:] *= 2

    row = np.ones(3, dtype=np.float32)
    for steps, expected in (
        ([LogitBias({0: 1.0}), Call(double)], [4.0, 2.0, 2.0]),
        ([Call(double), LogitBias({0: 1.0})], [3.0, 2.0, 2.0]),
    ):
        with SamplerChain([*steps, Greedy()], vocab) as chain:
            assert chain.apply(row)[1].tolist() == expected
