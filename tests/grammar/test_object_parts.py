"""Constraints put together, and the one that ends reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi.core.model import Model
from llama_cffi.core.vocab import Vocab
from llama_cffi.errors import GrammarError
from llama_cffi.grammar.all_of import AllMatcher, AllOf
from llama_cffi.grammar.reasoning_budget import BudgetMatcher, ReasoningBudget

N_TOKENS = 70


class FixedMatcher:
    """Lets through the tokens of one set at each step."""

    def __init__(self, steps: Sequence[set[int]]) -> None:
        self.steps = steps
        self.taken: list[int] = []
        self.closed = 0

    def accept(self, token: int) -> bool:
        if token not in self._here():
            return False
        self.taken.append(token)
        return True

    def _here(self) -> set[int]:
        return self.steps[len(self.taken)] if len(self.taken) < len(self.steps) else set()

    def mask(self) -> NDArray[np.uint32]:
        bits = np.zeros((N_TOKENS + 31) // 32 * 32, dtype=np.uint8)
        bits[list(self._here())] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    @property
    def complete(self) -> bool:
        return len(self.taken) >= len(self.steps) - 1

    @property
    def ended(self) -> bool:
        return len(self.taken) == len(self.steps)

    def close(self) -> None:
        self.closed += 1


class AskedMatcher(FixedMatcher):
    """One that can tell without accepting."""

    def allows(self, token: int) -> bool:
        return token in self._here()


class Fixed:
    def __init__(self, matcher: FixedMatcher) -> None:
        self.matcher = matcher

    def start(self) -> FixedMatcher:
        return self.matcher


class Failing:
    def start(self) -> FixedMatcher:
        raise GrammarError("not this one")


def allowed(matcher: AllMatcher | BudgetMatcher, n: int = N_TOKENS) -> set[int]:
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits[:n]).tolist())


@pytest.mark.parametrize("kinds", [(AskedMatcher, FixedMatcher), (FixedMatcher, AskedMatcher), (FixedMatcher,) * 2])
def test_all_accept_or_none(kinds: tuple[type[FixedMatcher], type[FixedMatcher]]) -> None:
    first, second = kinds[0]([{1, 2, 40}, {5, 69}]), kinds[1]([{2, 3, 40}, {5, 6, 69}])
    matcher = AllOf([Fixed(first), Fixed(second)]).start()
    assert allowed(matcher) == {2, 40}
    assert [matcher.allows(token) for token in (1, 2, 3, 40)] == [False, True, False, True]
    for refused in (1, 3, 50, 1000, -1):
        assert not matcher.accept(refused)
        assert first.taken == second.taken == []
    assert not matcher.complete
    assert matcher.accept(40)
    assert first.taken == second.taken == [40]
    assert allowed(matcher) == {5, 69}
    assert matcher.complete
    assert not matcher.ended
    assert matcher.accept(69)
    assert matcher.ended
    matcher.close()
    assert (first.closed, second.closed) == (1, 1)


def test_three_parts_and_one() -> None:
    parts = [FixedMatcher([{1, 2}]), FixedMatcher([{2, 3}]), FixedMatcher([{2, 4}])]
    matcher = AllOf([Fixed(part) for part in parts]).start()
    assert allowed(matcher) == {2}
    assert not any(matcher.accept(token) for token in (1, 3, 4))
    assert [part.taken for part in parts] == [[], [], []]
    assert matcher.accept(2)
    alone = AllOf([Fixed(AskedMatcher([{7}]))]).start()
    assert allowed(alone) == {7}
    assert not alone.accept(6)
    assert alone.accept(7)


def test_nothing_in_common() -> None:
    matcher = AllOf([Fixed(FixedMatcher([{1}])), Fixed(FixedMatcher([{2}]))]).start()
    with pytest.raises(GrammarError, match="no token in common"):
        matcher.mask()
    with pytest.raises(ValueError, match="at least one"):
        AllOf([])


def test_a_part_that_does_not_start_closes_the_others() -> None:
    first = FixedMatcher([{1}])
    with pytest.raises(GrammarError, match="not this one"):
        AllOf([Fixed(first), Failing()]).start()
    assert first.closed == 1


# -- the budget


@pytest.fixture(scope="module")
def vocab(assets: object) -> Iterator[Vocab]:
    with Model(assets / "models" / "stories260K.gguf") as model:  # type: ignore[operator]
        yield model.vocab


def tokens_of(vocab: Vocab, text: str) -> list[int]:
    return [int(token) for token in vocab.tokenize(text, add_special=False)]


def take(matcher: BudgetMatcher, tokens: Sequence[int]) -> None:
    for token in tokens:
        assert matcher.allows(token)
        assert matcher.accept(token)


def test_reasoning_ends_after_n_tokens(vocab: Vocab) -> None:
    budget = ReasoningBudget(5, "", "</think>", vocab)
    matcher = budget.start()
    words = tokens_of(vocab, "Once upon a time there was a girl")
    take(matcher, words[:5])
    assert not matcher.complete
    for token in budget.forced:
        assert allowed(matcher, len(vocab)) == {token}
        other = next(word for word in words if word != token)
        assert not matcher.allows(other)
        assert not matcher.accept(other)
        assert vocab.eos is not None
        assert not matcher.accept(vocab.eos)
        assert matcher.accept(token)
    assert b"".join(vocab.piece(token) for token in budget.forced) == b"</think>"
    assert matcher.complete
    assert not matcher.ended
    assert len(allowed(matcher, len(vocab))) == len(vocab)
    take(matcher, words)


def test_reasoning_that_ends_by_itself_is_left_alone(vocab: Vocab) -> None:
    matcher = ReasoningBudget(40, "<think>", "</think>", vocab).start()
    take(matcher, tokens_of(vocab, "<think>A girl.</think>"))
    take(matcher, tokens_of(vocab, "Once upon a time " * 40))
    assert matcher.complete


def test_a_reply_without_reasoning_has_no_budget(vocab: Vocab) -> None:
    matcher = ReasoningBudget(0, "<think>", "</think>", vocab).start()
    take(matcher, tokens_of(vocab, "Once <think> upon a time " * 10))


def test_no_reasoning_at_all(vocab: Vocab) -> None:
    budget = ReasoningBudget(0, "<think>", "</think>", vocab, closing="So.</think>")
    matcher = budget.start()
    take(matcher, tokens_of(vocab, "<think>"))
    assert allowed(matcher, len(vocab)) == {budget.forced[0]}
    take(matcher, budget.forced)
    assert len(allowed(matcher, len(vocab))) == len(vocab)
    opened = ReasoningBudget(0, "", "</think>", vocab).start()
    assert len(allowed(opened, len(vocab))) == 1


def test_a_token_outside_the_vocabulary_is_refused(vocab: Vocab) -> None:
    matcher = ReasoningBudget(3, "", "</think>", vocab).start()
    assert not matcher.accept(len(vocab))
    assert not matcher.accept(-1)


def test_budgets_that_make_no_sense(vocab: Vocab) -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        ReasoningBudget(-1, "", "</think>", vocab)
    with pytest.raises(ValueError, match="end must not be empty"):
        ReasoningBudget(1, "", "", vocab)
    with pytest.raises(ValueError, match="closing must hold"):
        ReasoningBudget(1, "", "</think>", vocab, closing="So.")


def test_a_budget_beside_another_constraint(vocab: Vocab) -> None:
    budget = ReasoningBudget(2, "", "</think>", vocab)
    words = tokens_of(vocab, "Once upon a time")
    other = AskedMatcher([set(range(len(vocab)))] * 3)
    matcher = AllMatcher([budget.start(), other])
    take_two = words[:2]
    assert all(matcher.accept(token) for token in take_two)
    assert not matcher.accept(words[2])
    assert other.taken == take_two
