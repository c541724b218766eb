"""Stop strings: for every way of cutting the text, the answer of a search over the whole text."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_cffi.reply.stops import StopMatcher


def oracle(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Text before the earliest stop (the longest at that place), and that stop."""
    pattern = "|".join(re.escape(stop) for stop in sorted(stops, key=len, reverse=True))
    found = re.search(pattern, text) if stops else None
    return (text[: found.start()], found.group()) if found else (text, None)


def stream(matcher: StopMatcher, chunks: list[str]) -> str:
    return "".join([*map(matcher.feed, chunks), matcher.flush()])


small = st.text("ab]^-\n", max_size=30)  # few letters: many matches, overlaps and near misses
stop_lists = st.lists(st.text("ab]^-\n", min_size=1, max_size=5), max_size=5)


def chunks_of(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(small, stop_lists, st.lists(st.integers(0, 100), max_size=12))
@example("abc", ["abcd", "bc"], [1, 2])
@example("aab", ["aab", "ab"], [1, 2])
@example("x\n\ny", ["\n", "\n\n"], [2])
def test_every_cut_gives_the_same(text: str, stops: list[str], places: list[int]) -> None:
    expected = oracle(text, stops)
    for chunks in (chunks_of(text, places), list(text), [text]):
        matcher = StopMatcher(stops)
        assert (stream(matcher, chunks), matcher.matched) == expected


@given(small, stop_lists, st.lists(st.integers(0, 100), max_size=12))
def test_nothing_is_shown_that_may_be_taken_back_and_no_more_is_held_than_needed(
    text: str, stops: list[str], places: list[int]
) -> None:
    matcher = StopMatcher(stops)
    shown, fed = "", ""
    for chunk in chunks_of(text, places):
        fed += chunk
        shown += matcher.feed(chunk)
        if matcher.matched is not None:
            assert fed.startswith(shown + matcher.matched)
            assert matcher.held == ""
        else:
            assert shown + matcher.held == fed
            longer = [stop for stop in stops if len(stop) > len(matcher.held)]
            assert not matcher.held or any(stop.startswith(matcher.held) for stop in longer)


def test_without_stops_text_passes_through() -> None:
    matcher = StopMatcher(())
    text = "anything"
    assert matcher.feed(text) is text
    assert matcher.flush() == ""
    assert matcher.stops == ()


def test_hold_back_and_release() -> None:
    matcher = StopMatcher(["</s>"])
    assert matcher.feed("one </") == "one "
    assert matcher.held == "</"
    assert matcher.feed("b>") == "</b>"
    assert matcher.feed("<") == ""
    assert matcher.flush() == "<"
    assert matcher.matched is None


def test_after_a_match_everything_is_dropped() -> None:
    matcher = StopMatcher("END")
    assert matcher.feed("a END b") == "a "
    assert matcher.matched == "END"
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""


def test_the_longer_stop_is_waited_for_and_flush_decides() -> None:
    matcher = StopMatcher(["\n", "\n\n"])
    assert matcher.feed("x\n") == "x"
    assert matcher.matched is None
    assert matcher.flush() == ""
    assert matcher.matched == "\n"

    matcher = StopMatcher(["\n", "\n\n"])
    matcher.feed("x\n")
    assert matcher.feed("y") == ""
    assert matcher.matched == "\n"


def test_a_single_string_is_one_stop_and_duplicates_count_once() -> None:
    assert StopMatcher("abc").stops == ("abc",)
    assert StopMatcher(["a", "b", "a"]).stops == ("a", "b")


def test_bad_stops_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])
    with pytest.raises(ValueError, match="empty"):
        StopMatcher("")
    with pytest.raises(TypeError, match="bytes"):
        StopMatcher([b"a"])  # type: ignore[list-item]


def test_a_long_repetitive_stop_stays_cheap() -> None:
    """Text that keeps almost matching must not cost quadratic time in all that was generated."""
    matcher = StopMatcher(["a" * 500 + "b"])
    start = time.perf_counter()
    text = stream(matcher, ["a"] * 5000)
    assert time.perf_counter() - start < 5.0
    assert text == "a" * 5000
