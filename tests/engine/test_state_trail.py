"""What draft heads are given: after any history, each token beside the hidden state of the token before it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llama_cffi.engine.state_trail import StateTrail

N_VOCAB = 3


class Heads:
    """A memory of heads: what was computed at each position. ``text`` is what the target holds."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.trail = StateTrail()
        self.memory: dict[int, tuple[int, Any]] = {}
        self.start = 0
        self.text: list[int] = []
        self.n_computed = 0
        """The tokens of the text that the target has computed."""

    @staticmethod
    def state(text: list[int]) -> Any:
        """The hidden state after a text: nothing but this text has it."""
        return _State(text)

    def compute(self, tokens: list[int]) -> None:
        """The target computes tokens behind what it has."""
        n = self.n_computed
        whole = self.text[:n] + tokens
        states = [self.state(whole[: i + 1]) for i in range(n, len(whole))]
        self.trail.add(n, tokens, states)
        self.n_computed = len(whole)

    def cut(self) -> None:
        """What is before the start of the trail, and what is not held, goes."""
        trail = self.trail
        self.memory = {at: pair for at, pair in self.memory.items() if trail.start < at < trail.n_held}

    def feed(self, stop: int, last: int | None = None) -> None:
        trail = self.trail
        self.cut()
        for at in range(trail.n_held, stop):
            token = trail.tokens[at - trail.start] if at < trail.end else last
            assert token is not None
            self.memory[at] = token, trail.state(at - 1)
        trail.n_held = max(trail.n_held, min(stop, trail.end))

    def draft(self, text: list[int]) -> bool:
        """Begin a draft: every pair in memory is one of this text."""
        trail = self.trail
        if not trail.align(text):
            return False
        end = len(text) - 1
        assert trail.end == end
        assert trail.tokens == text[trail.start : end]
        self.feed(end + 1, text[-1])
        trail.began_with(text[-1])
        trail.let_go()
        assert sorted(self.memory) == list(range(trail.start + 1, end + 1))
        for at, (token, state) in self.memory.items():
            assert token == text[at]
            assert state is None or state.text == text[:at]
        # Of the last token the state is always known.
        assert self.memory[end][1] is not None
        return True


class _State:
    def __init__(self, text: list[int]) -> None:
        self.text = text

    def copy(self) -> _State:
        return self


def states(tokens: list[int]) -> list[Any]:
    return [_State(tokens[: i + 1]) for i in range(len(tokens))]


@pytest.mark.parametrize("seed", range(15))
def test_any_history(seed: int) -> None:
    rng = random.Random(seed)
    heads = Heads(rng)
    n_drafts = n_known = 0
    for _ in range(12):
        # A text of the same sequence: it keeps a part of the one before, or is in memory from elsewhere.
        kept = rng.choice([0, rng.randint(0, heads.n_computed), heads.n_computed])
        held = heads.text[:kept]
        if rng.random() < 0.2:
            # Tokens that no other text has.
            held = [rng.randrange(10**9) for _ in range(rng.randint(0, 9))]
        text = [*held, *rng.choices(range(N_VOCAB), k=rng.randint(1, 90))]
        heads.text, heads.n_computed = text, len(held)
        while heads.n_computed < len(text):
            heads.compute(text[heads.n_computed : heads.n_computed + rng.randint(1, 40)])
            if rng.random() < 0.3:
                heads.feed(heads.trail.end)
                heads.trail.let_go()
            if rng.random() < 0.1:
                heads.trail.drop()
        heads.trail.begin()
        text.append(rng.randrange(N_VOCAB))
        for _ in range(rng.randint(0, 12)):
            known = rng.random() < 0.7
            if known:
                n_drafts += 1
                n_known += heads.draft(text)
            draft = rng.choices(range(N_VOCAB), k=rng.randint(0, 6))
            n_accepted = rng.randint(0, len(draft))
            heads.compute([text[-1], *draft])
            heads.n_computed = len(text) + n_accepted
            text += [*draft[:n_accepted], rng.randrange(N_VOCAB)]
    assert n_known == n_drafts


def test_media_have_fewer_positions_than_cells() -> None:
    trail = StateTrail()
    trail.add(0, [1, 2], states([1, 2]))
    # An image of four cells at one position.
    trail.add(3, [3, 4], states([3, 4]))
    text = [1, 2, -7, -7, -7, -7, 3, 4, 5]
    assert trail.align(text)
    assert (trail.start, trail.end, trail.n_held) == (3, 5, 4)
    trail.add(5, [5, 6, 7], states([5, 6, 7]))
    assert trail.align([*text, 9])
    assert trail.tokens == [3, 4, 5]


def test_a_text_that_was_shifted_is_not_known() -> None:
    trail = StateTrail()
    trail.add(0, [1, 2, 3, 4, 5], states([1, 2, 3, 4, 5]))
    assert trail.align([1, 2, 3, 4, 5, 6])
    assert trail.align([1, 2, 5, 6]) is False


def test_a_beginning_that_another_sequence_has() -> None:
    text, other, trail = [1, 2, 3, 4, 5], StateTrail(), StateTrail()
    other.add(0, [1, 2, 3, 9], states([1, 2, 3, 9]))
    other.n_held = 3
    trail.add(3, [4], states([1, 2, 3, 4])[3:])
    assert trail.align(text)
    assert trail.shares_with(other, text)
    assert not trail.shares_with(other, [1, 2, 2, 4, 5])
    other.n_held = 2
    assert not trail.shares_with(other, text)
    other.n_held = 4
    trail.adopt(other)
    assert (trail.start, trail.end, trail.n_held, trail.tokens) == (0, 4, 3, [1, 2, 3, 4])
    assert trail.state(2) is None
    assert trail.align(text)


def test_an_interrupt_between_tokens_and_states() -> None:
    trail = StateTrail()
    trail.add(0, [1, 2], states([1, 2]))
    trail.tokens.append(3)
    assert not trail.align([1, 2, 3, 4])
    trail.add(3, [4], states([1, 2, 3, 4])[3:])
    assert trail.align([1, 2, 3, 4, 5])
    state: Any = trail.state(3)
    assert state.text == [1, 2, 3, 4]


def test_states_stay_known_for_a_while() -> None:
    trail = StateTrail()
    tokens = list(range(500))
    trail.add(0, tokens, states(tokens))
    trail.n_held = 500
    trail.let_go()
    assert trail.state(400) is None
    assert trail.state(440) is not None
    assert trail.align(tokens[:450])
    assert not trail.align(tokens[:300])
