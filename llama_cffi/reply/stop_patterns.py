"""Stop patterns in streamed text: regular expressions besides stop strings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from llama_cffi.errors import UnsupportedError
from llama_cffi.reply.stops import StopMatcher

__all__ = ["PatternMatcher", "Stops", "make_stops"]

MAX_MATCH = 512
"""Longest text that is held back for a match, in characters: a longer match is not found."""
_CONTEXT = 64
"""Characters already shown that ``\\b``, ``^`` and look-behind can still see."""
_FLAGS = ("IGNORECASE", "MULTILINE", "DOTALL", "VERBOSE", "ASCII")


class Stops(Protocol):
    """What cuts a text that arrives in chunks."""

    @property
    def matched(self) -> str | None:
        """The text that ended it, or None as long as there was none."""

    def feed(self, text: str) -> str:
        """Add text and return what can be shown now; always empty once a stop was found."""

    def flush(self) -> str:
        """End the text and return what was held back."""


class PatternMatcher:
    """Cuts a text that arrives in chunks before the first match of a regular expression.

    The text is looked at character by character, and the first match to be complete ends it; so the result does not
    depend on how the text was cut, and a match never waits for what follows it (``[0-9]+`` ends a text at its first
    digit, and a look-ahead at the end sees nothing). What may still become a match of at most 512 characters is held
    back.

    Raises ValueError for a pattern that matches the empty text or that the package regex does not take, TypeError for
    a pattern over bytes, and :class:`UnsupportedError` where the package regex is not installed: the standard library
    cannot say whether a text may still become a match.
    """

    __slots__ = ("_matched", "_patterns", "_start", "_text")

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        self._patterns = [_compile(pattern) for pattern in patterns]
        self._text = ""
        self._start = 0
        """Where in ``_text`` that begins which has not been shown."""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The text of the match that ended the text, or None as long as there was none."""
        return self._matched

    @property
    def held(self) -> str:
        """The text held back because it may be the beginning of a match."""
        return self._text[self._start :]

    def feed(self, text: str) -> str:
        """Add text and return what can be shown now; always empty once a match was found."""
        if self._matched is not None:
            return ""
        shown = ""
        for character in text:
            self._text += character
            place = self._look()
            shown += self._text[self._start : place]
            if self._matched is not None:
                self._text, self._start = "", 0
                break
            self._start = place
            if place > 2 * _CONTEXT:
                self._text = self._text[place - _CONTEXT :]
                self._start = _CONTEXT
        return shown

    def flush(self) -> str:
        """End the text and return what was held back."""
        held, self._text, self._start = self.held, "", 0
        return held

    def _look(self) -> int:
        """Up to where the text can be shown: to the match that ends it, or to what may become one."""
        text = self._text
        start = max(self._start, len(text) - MAX_MATCH)
        found = [
            match for pattern in self._patterns if (match := pattern.search(text, start, partial=True)) is not None
        ]
        whole = min((match for match in found if not match.partial), key=lambda match: match.start(), default=None)
        if whole is not None:
            self._matched = whole.group()
            return int(whole.start())
        return min((match.start() for match in found), default=len(text))


class _Both:
    """Stop strings, and patterns over what the strings let through: whichever is complete first."""

    __slots__ = ("_patterns", "_strings")

    def __init__(self, strings: StopMatcher, patterns: PatternMatcher) -> None:
        self._strings, self._patterns = strings, patterns

    @property
    def matched(self) -> str | None:
        return self._patterns.matched if self._patterns.matched is not None else self._strings.matched

    def feed(self, text: str) -> str:
        if self._patterns.matched is not None:
            return ""
        return self._after(self._patterns.feed(self._strings.feed(text)))

    def flush(self) -> str:
        if self._patterns.matched is not None:
            return ""
        return self._patterns.feed(self._strings.flush()) + self._patterns.flush()

    def _after(self, shown: str) -> str:
        # The string has cut the text, so nothing can become a match any more.
        return shown if self._strings.matched is None else shown + self._patterns.flush()


def make_stops(stops: Sequence[str | re.Pattern[str]]) -> Stops | None:
    """Return the matcher for stop strings and patterns; None when there are none. Raises as :class:`PatternMatcher`."""
    strings = [stop for stop in stops if isinstance(stop, str)]
    patterns = [stop for stop in stops if not isinstance(stop, str)]
    if not patterns:
        return StopMatcher(strings) if strings else None
    matcher = PatternMatcher(patterns)
    return _Both(StopMatcher(strings), matcher) if strings else matcher


def _compile(pattern: re.Pattern[str]) -> Any:
    if not isinstance(pattern.pattern, str):
        raise TypeError(f"a stop pattern must be over str, not bytes: {pattern.pattern!r}")
    if pattern.search("") is not None:
        raise ValueError(f"the stop pattern {pattern.pattern!r} matches the empty text")
    try:
        import regex
    except ImportError:
        raise UnsupportedError("stop patterns need the package regex: pip install 'llama-cffi[regex]'") from None
    flags = 0
    for name in _FLAGS:
        # The two packages number their flags differently.
        if pattern.flags & getattr(re, name):
            flags |= getattr(regex, name)
    try:
        return regex.compile(pattern.pattern, flags)
    except regex.error as error:
        raise ValueError(f"the stop pattern {pattern.pattern!r}: {error}") from None
