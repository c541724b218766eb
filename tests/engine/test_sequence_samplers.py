"""Constraints in the engine: every token is one that the matcher allows, chosen as if it had been asked first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llama_cffi import Completion, FinishReason, Llama, Request, SamplingParams
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.sequence_samplers import chain_samplers
from llama_cffi.errors import GrammarError, SamplerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytest_plugins = ["tests.support.models"]


class Cycle:
    """A constraint: place i of the text takes a token of ``sets[i % len(sets)]``; it ends after ``length`` tokens."""

    def __init__(self, sets: list[set[int]], n_vocab: int, length: int = 10**9) -> None:
        self.sets, self.n_vocab, self.length = sets, n_vocab, length
        self.started: list[CycleMatcher] = []

    def start(self) -> CycleMatcher:
        self.started.append(CycleMatcher(self))
        return self.started[-1]


class CycleMatcher:
    def __init__(self, constraint: Cycle) -> None:
        self.constraint = constraint
        self.place = 0
        self.n_masks = 0
        self.closed = False

    @property
    def allowed(self) -> set[int]:
        return self.constraint.sets[self.place % len(self.constraint.sets)]

    def accept(self, token: int) -> bool:
        if token not in self.allowed:
            return False
        self.place += 1
        return True

    def mask(self) -> NDArray[np.uint32]:
        self.n_masks += 1
        bits = np.zeros((self.constraint.n_vocab + 31) // 32 * 32, dtype=np.uint8)
        bits[list(self.allowed)] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    @property
    def complete(self) -> bool:
        return self.place == self.constraint.length

    ended = complete

    def close(self) -> None:
        self.closed = True


def run(llm: Llama, constraint: Cycle, *, prompt: str = "tana nese", **options: Any) -> Completion:
    fields = {name: options.pop(name) for name in ("max_tokens", "logprobs") if name in options}
    tokens = tuple(llm.tokenize(prompt).tolist())
    request = Request(prompt=Prompt(tokens), sampling=SamplingParams(**options), constraint=constraint, **fields)
    sequence = llm._runtime.engine.submit(request)
    completion = None
    while (chunk := llm._runtime.engine.next_chunk(sequence)) is not None:
        completion = chunk.completion
    assert completion is not None
    return completion


WAYS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 4},
    {"temperature": 0.9, "seed": 4, "repeat_penalty": 1.3},
    {"temperature": 1.4, "seed": 4, "logprobs": 2},
    {"temperature": 0, "logit_bias": {301: 2.0}},
]


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        (("penalties", "top_k", "temperature"), ["Penalties", "Greedy"]),
        (("min_p", "penalties", "top_k", "temperature"), ["MinP", "Penalties", "Greedy"]),
        (("top_p", "temperature", "penalties", "top_k"), ["Greedy"]),
        (("min_p", "top_k", "temperature"), ["Greedy"]),
        (("top_k", "penalties"), ["TopK", "Penalties", "Dist"]),
    ],
)
def test_what_a_greedy_choice_needs(order: Any, kept: list[str]) -> None:
    """What can change which logit is the largest where the temperature comes, and no more."""
    sampling = SamplingParams(temperature=0, repeat_penalty=1.3, sampler_order=order)
    assert [type(one).__name__ for one in chain_samplers(sampling, 1)] == kept


@pytest.mark.parametrize("options", WAYS, ids=lambda options: "-".join(options))
def test_only_what_is_allowed(llm: Llama, options: dict[str, Any]) -> None:
    sets = [set(range(290, 320)), {300, 301, 511}, set(range(260, 500, 3))]
    constraint = Cycle(sets, llm.model.vocab.n_tokens)
    completion = run(llm, constraint, max_tokens=40, **options)
    assert len(completion.tokens) == 40
    assert all(token in sets[i % 3] for i, token in enumerate(completion.tokens))
    (matcher,) = constraint.started
    assert matcher.place == 40
    assert matcher.n_masks > 0
    assert matcher.closed


def test_a_greedy_choice_is_the_best_of_what_is_allowed(llm: Llama) -> None:
    allowed = {i for i in range(260, 512) if i % 7 == 0}
    completion = run(llm, Cycle([allowed], llm.model.vocab.n_tokens), max_tokens=12, temperature=0, logprobs=512)
    assert completion.logprobs is not None
    for token, entry in zip(completion.tokens, completion.logprobs, strict=True):
        # The probabilities reported are the model's own, of all tokens.
        assert len(entry.top) > len(allowed)
        assert token == next(candidate for candidate, _ in entry.top if candidate in allowed)
        assert entry.logprob == pytest.approx(dict(entry.top)[token], abs=1e-5)


@pytest.mark.parametrize("mode", ["step", "batch"])
def test_what_is_allowed_keeps_its_proportions(llm: Llama, mode: str) -> None:
    tokens = llm.tokenize("tana nese")
    whole = llm.generate(tokens, max_tokens=1, logprobs=512, seed=0).logprobs
    assert whole is not None
    model = dict(whole[0].top)
    allowed = sorted(model)[::60]
    weights = np.exp([model[token] for token in allowed])
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    # The first token comes from a batch, the second one from a step.
    sets = [set(allowed)] if mode == "batch" else [{whole[0].token}, set(allowed)]
    if mode == "step":
        follow = llm.generate([*tokens.tolist(), whole[0].token], max_tokens=1, logprobs=512, seed=0).logprobs
        assert follow is not None
        weights = np.exp([dict(follow[0].top)[token] for token in allowed])
    n = 3000
    counts: Counter[int] = Counter()
    for seed in range(n):
        constraint = Cycle(sets, llm.model.vocab.n_tokens)
        counts[run(llm, constraint, max_tokens=len(sets), seed=seed, **options).tokens[-1]] += 1
    expected = n * weights / weights.sum()
    assert set(counts) <= set(allowed)
    chi = sum((counts[token] - mean) ** 2 / mean for token, mean in zip(allowed, expected, strict=True))
    # Mean len(allowed) - 1, standard deviation sqrt(2 (len(allowed) - 1)): five of them is no chance.
    assert chi < len(allowed) - 1 + 5 * np.sqrt(2 * (len(allowed) - 1))


def test_the_end_of_a_constraint_is_the_end_of_the_text(llm: Llama) -> None:
    constraint = Cycle([{300}, {301}], llm.model.vocab.n_tokens, length=4)
    completion = run(llm, constraint, max_tokens=40, temperature=0)
    assert completion.tokens == (300, 301, 300, 301)
    assert completion.finish_reason is FinishReason.STOP


def test_many_with_constraints_and_without(llm: Llama) -> None:
    n_vocab = llm.model.vocab.n_tokens
    wanted = [{300 + i} for i in range(6)]
    constraints: list[Cycle | None] = [Cycle([one], n_vocab) for one in wanted]
    constraints[2] = None
    tokens = tuple(llm.tokenize("tana").tolist())
    alone = llm.generate(tokens, max_tokens=9, temperature=0)
    sampling = SamplingParams(temperature=0)
    requests = [Request(prompt=Prompt(tokens), sampling=sampling, max_tokens=9, constraint=one) for one in constraints]
    sequences = [llm._runtime.engine.submit(request) for request in requests]
    for i, sequence in enumerate(sequences):
        while llm._runtime.engine.next_chunk(sequence) is not None:
            pass
        assert sequence.output == ([300 + i] * 9 if i != 2 else list(alone.tokens))


def test_nothing_allowed(llm: Llama) -> None:
    with pytest.raises(GrammarError, match="allows no token"):
        run(llm, Cycle([{300}, set()], llm.model.vocab.n_tokens), max_tokens=9)
    assert llm._runtime.engine.idle
    assert llm.generate("tana", max_tokens=2).usage.completion_tokens == 2


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_matcher_that_raises(llm: Llama, error: BaseException) -> None:
    constraint = Cycle([{300}], llm.model.vocab.n_tokens)
    matcher = CycleMatcher(constraint)

    def accept(token: int) -> bool:
        if matcher.place == 3:
            raise error
        return CycleMatcher.accept(matcher, token)

    raising: Callable[[], CycleMatcher] = lambda: matcher  # noqa: E731
    matcher.accept = accept  # type: ignore[method-assign]
    constraint.start = raising  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        run(llm, constraint, max_tokens=9, temperature=0)


def test_one_constraint_at_a_time() -> None:
    with pytest.raises(SamplerError, match="cannot be used together"):
        Request(prompt=Prompt((1,)), sampling=SamplingParams(grammar='root ::= "a"'), constraint=Cycle([{1}], 2))


def test_visible_control_tokens(llm: Llama) -> None:
    vocab = llm.model.vocab
    control = next(token for token in range(vocab.n_tokens) if vocab.is_control(token) and not vocab.is_eog(token))
    shown = []
    for visible in (frozenset[int](), frozenset({control})):
        constraint = Cycle([{control}, {300}], vocab.n_tokens)
        tokens = tuple(llm.tokenize("tana").tolist())
        sequence = llm._runtime.engine.submit(
            Request(prompt=Prompt(tokens), max_tokens=2, constraint=constraint, visible=visible)
        )
        text = ""
        while (chunk := llm._runtime.engine.next_chunk(sequence)) is not None:
            text += chunk.text
        shown.append(text)
    assert shown[1] == vocab.text(control) + shown[0]
