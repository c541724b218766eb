"""What is drafted from the text itself, and how many decodes that saves of texts that repeat something or nothing."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.prompt_lookup import PromptLookup
from tests.support.lookup_machine import MACHINES, Decode, free, kernels, run_lookup, steep
from tests.support.repeating_texts import Propose, decodes, longest_match, ngram_simple, samples, words

SAMPLES = {kind: [(words(one.prompt), words(one.text)) for one in found] for kind, found in samples().items()}


def lookup(tokens: list[int], n_max: int = 8, **options: int) -> list[int]:
    return PromptLookup(**options).start().propose(tokens, n_max, seq_id=0)


def test_the_last_place_that_ended_alike_goes_on() -> None:
    assert lookup([1, 2, 3, 9, 1, 2, 4, 5, 1, 2]) == [4, 5, 1, 2, 4, 5, 1, 2]
    assert lookup([1, 2, 3, 9, 1, 2, 4, 5, 1, 2], 3) == [4, 5, 1]
    assert lookup([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1) == [3], "the longer n-gram first"
    assert lookup([1, 2, 3, 4]) == []
    assert lookup([5, 5, 5], n_draft=4) == [5, 5, 5, 5]
    assert lookup([1], min_ngram=1) == []


def test_one_token_is_enough_unless_more_are_wanted() -> None:
    assert lookup([3, 7, 8, 4, 3], 2) == [7, 8]
    assert lookup([3, 7, 8, 4, 3], 2, min_ngram=2) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 6))
def test_it_finds_what_a_search_finds(tokens: list[int], size: int, n_max: int) -> None:
    drafter = PromptLookup(min_ngram=size, max_ngram=size, n_draft=6).start()
    for n in range(1, len(tokens) + 1):
        text = tokens[:n]
        expected: list[int] = []
        for end in range(n - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                for i in range(n_max):
                    expected.append([*text, *expected][end + i])
                break
        assert drafter.propose(text, n_max, seq_id=0) == expected


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 6))
def test_the_longest_match_of_a_whole_text(tokens: list[int], n_max: int) -> None:
    assert lookup(tokens, n_max) == longest_match(n_max)(tokens, n_max)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.lists(st.integers(1, 7)), st.integers(1, 9))
def test_every_token_of_a_draft_has_a_kind(tokens: list[int], steps: list[int], n_max: int) -> None:
    drafter: Any = PromptLookup(n_draft=8).start()
    n = 0
    for step in [*steps, len(tokens)]:
        n = min(n + step, len(tokens))
        kinds = drafter.kinds(tokens[:n], n_max)
        assert len(kinds) == len(drafter.propose(tokens[:n], n_max, seq_id=0))
        assert all(0 <= kind < len(drafter.expected) for kind in kinds)


def test_a_shift_is_noticed() -> None:
    drafter = PromptLookup().start()
    drafter.propose([1, 2, 3, 4, 5, 6, 1, 2], 4, seq_id=0)
    assert drafter.propose([4, 5, 6, 4, 5], 2, seq_id=0) == [6, 4]


@pytest.mark.parametrize(
    ("other", "expected"),
    [([50], [9, 10]), ([9], [10, 11]), ([11], [12, 13]), ([50, 51, 8], [9, 10]), ([50, 51, 52, 10], [11, 12])],
    ids=["another token", "one left out", "three left out", "two put in", "three for two"],
)
def test_behind_a_difference_the_draft_goes_on(other: list[int], expected: list[int]) -> None:
    """The prompt is 0 to 19, and its repetition says something else instead of 8."""
    prompt = list(range(20))
    drafter = PromptLookup().start()
    drafter.propose([*prompt, 99, *range(8)], 2, seq_id=0)
    assert drafter.propose([*prompt, 99, *range(8), *other], 2, seq_id=0) == expected


def test_after_many_differences_it_does_not_go_on() -> None:
    drafter = PromptLookup().start()
    text = [*range(20), 99, *range(8)]
    drafter.propose(text, 2, seq_id=0)
    found = []
    for token in range(50, 60):
        text.append(token)
        found.append(drafter.propose(text, 2, seq_id=0))
    assert found[0] == [9, 10]
    assert found[-1] == []


@pytest.mark.parametrize(
    "options", [{"n_draft": 0}, {"min_ngram": 0}, {"min_ngram": 3, "max_ngram": 2}, {"n_draft": 2.5}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ngram|n_draft"):
        PromptLookup(**options)


# -- what it saves


def test_looking_up_takes_no_time() -> None:
    """Where a clock is coarse, or stands for one: a draft as dear as a decode would not pay."""
    ticks = count()
    cost = DecodeCost()
    cost.add(1, 1.0)
    drafting = DraftController(PromptLookup().start(), 100, cost, lambda: float(next(ticks)))
    text, n_drafted = [1, 2, 3, 4, 5, 6, 7, 8, 9], []
    for _ in range(4):
        draft = drafting.propose([*text, *text[:3]], 6, seq_id=0)
        n_drafted.append(len(draft))
        drafting.verified(len(draft))
    assert n_drafted == [6] * 4


def n_decodes(kind: str, propose: Propose) -> int:
    return sum(decodes(prompt, text, propose)[0] for prompt, text in SAMPLES[kind])


@pytest.mark.parametrize("kind", SAMPLES)
def test_no_length_of_drafts_saves_more_decodes(kind: str) -> None:
    """Where rows are free. Trying every place finds a little more, as does never going without a draft."""
    ours, _, _ = run_lookup(SAMPLES[kind], free, PromptLookup())
    assert ours <= 1.1 * n_decodes(kind, longest_match(64)) + 1
    assert ours <= min(n_decodes(kind, ngram_simple(n, 48)) for n in (2, 12))


@pytest.mark.parametrize(("decode", "least"), [(kernels, 3.0), (steep, 2.2)])
@pytest.mark.parametrize("kind", ["a file copied", "names changed", "lines changed"])
def test_texts_that_repeat_their_prompt(kind: str, decode: Decode, least: float) -> None:
    assert run_lookup(SAMPLES[kind], decode, PromptLookup())[2] > least


@pytest.mark.parametrize("decode", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("kind", SAMPLES)
def test_no_text_takes_longer_than_without_drafts(kind: str, decode: Decode) -> None:
    """But for the first drafts of a program, of which it is not known yet what they take."""
    assert run_lookup(SAMPLES[kind], decode, PromptLookup())[2] > 0.98
