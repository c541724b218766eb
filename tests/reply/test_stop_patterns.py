"""Stop patterns: for every way of cutting the text, the answer of looking at it character by character."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_cffi.errors import UnsupportedError
from llama_cffi.reply.stop_patterns import MAX_MATCH, PatternMatcher, Stops, make_stops

PATTERNS = [r"ab", r"a+b", r"a[^b]b|ba{2}", r"\n\n+", r"(?<=b)\n", r"^a", r"(?m)^b", r"\bab", r"(?i)AB\n", r"a.{0,6}b"]

small = st.text("ab \n", max_size=30)
some_patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(
    lambda all: [re.compile(p) for p in all]
)
places = st.lists(st.integers(0, 100), max_size=12)


def oracle(text: str, patterns: list[re.Pattern[str]]) -> tuple[str, str | None]:
    """The first match to be complete: the standard library's search over every beginning of the text."""
    for end in range(1, len(text) + 1):
        found = [match for pattern in patterns if (match := pattern.search(text[:end]))]
        if found:
            first = min(found, key=lambda match: match.start())
            return text[: first.start()], first.group()
    return text, None


def stream(matcher: Stops, chunks: list[str]) -> str:
    return "".join([*map(matcher.feed, chunks), matcher.flush()])


def chunks_of(text: str, at: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(small, some_patterns, places)
@example("xab", [re.compile("ab+c|b")], [2])
def test_every_cut_gives_the_same(text: str, patterns: list[re.Pattern[str]], at: list[int]) -> None:
    expected = oracle(text, patterns)
    for chunks in (chunks_of(text, at), list(text), [text]):
        matcher = PatternMatcher(patterns)
        assert (stream(matcher, chunks), matcher.matched) == expected


@given(small, some_patterns, places)
def test_nothing_is_shown_that_may_be_taken_back(text: str, patterns: list[re.Pattern[str]], at: list[int]) -> None:
    matcher = PatternMatcher(patterns)
    shown = fed = ""
    for chunk in chunks_of(text, at):
        fed += chunk
        shown += matcher.feed(chunk)
        if matcher.matched is None:
            assert shown + matcher.held == fed
        else:
            assert fed.startswith(shown + matcher.matched)
            assert matcher.held == ""


@given(small, st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3), some_patterns, places)
def test_strings_and_patterns_together(
    text: str, strings: list[str], patterns: list[re.Pattern[str]], at: list[int]
) -> None:
    results = set()
    for chunks in (chunks_of(text, at), list(text), [text]):
        matcher = make_stops([*strings, *patterns])
        assert matcher is not None
        results.add((stream(matcher, chunks), matcher.matched))
    assert len(results) == 1
    shown, matched = results.pop()
    assert text.startswith(shown + (matched or ""))
    assert len(shown) <= min(len(oracle(text, patterns)[0]), len(text))
    if matched is None:
        assert shown == text
        assert not any(string in text for string in strings)


def test_only_what_may_become_a_match_is_held() -> None:
    matcher = PatternMatcher([re.compile(r"Answer: \d")])
    assert matcher.feed("The Answ") == "The "
    assert matcher.feed("ers are") == "Answers are"
    assert matcher.feed(" Answer: ") == " "
    assert matcher.feed("7 and more") == ""
    assert matcher.matched == "Answer: 7"
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""


def test_a_match_does_not_wait_for_what_follows() -> None:
    matcher = PatternMatcher([re.compile(r"[0-9]+")])
    assert (matcher.feed("x1"), matcher.matched) == ("x", "1")


def test_what_is_held_has_a_bound() -> None:
    matcher = PatternMatcher([re.compile(r"(?s)<.*>")])
    shown = matcher.feed("<" + "a" * (MAX_MATCH + 50))
    assert len(matcher.held) <= MAX_MATCH
    assert shown.startswith("<a")
    assert matcher.feed("> ") == "> "
    assert matcher.matched is None


def test_look_behind_sees_what_was_shown() -> None:
    matcher = PatternMatcher([re.compile(r"(?<=end)\n"), re.compile(r"^never")])
    assert matcher.feed("x" * 500 + "end") == "x" * 500 + "end"
    assert matcher.feed("never") == "never", "a beginning that was let go is not the beginning of the text"
    assert matcher.feed("end") == "end"
    matcher.feed("\n")
    assert matcher.matched == "\n"


def test_bad_patterns() -> None:
    with pytest.raises(ValueError, match="empty text"):
        PatternMatcher([re.compile("a*")])
    with pytest.raises(TypeError, match="bytes"):
        PatternMatcher([re.compile(b"a")])  # type: ignore[arg-type]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(UnsupportedError, match="pip install"):
        PatternMatcher([re.compile("a")])


@pytest.mark.parametrize(
    ("stops", "kind"), [([], "NoneType"), (["a"], "StopMatcher"), ([re.compile("a")], "PatternMatcher")]
)
def test_the_simplest_that_does_it(stops: Any, kind: str) -> None:
    assert type(make_stops(stops)).__name__ == kind
