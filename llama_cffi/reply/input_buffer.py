"""The input of a parser: text that arrives in pieces, each of which is read once."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from functools import lru_cache

Reading = Generator[None, None, None]
"""A reader that yields whenever it needs text that has not come yet."""

_BLANK = re.compile(r"\s*")


class InputBuffer:
    """The unread part of a reply. Each method that is a generator waits for the text that it needs.

    What is decided depends on the text alone and not on how it was cut: a literal that may still come is waited for.
    Nothing is read twice but a held piece shorter than the longest literal, so that the time is linear.
    """

    __slots__ = ("_log", "copy", "cut", "ended", "pos", "text")

    def __init__(self) -> None:
        self.text = ""
        self.pos = 0
        self.ended = False
        self.cut = False
        """Whether something else than the model ended the text: what may have become a literal is dropped."""
        self._log: list[str] | None = None
        self.copy: list[str] | None = None
        """Collects everything that is read while it is a list."""

    @property
    def empty(self) -> bool:
        """Whether the reply is over and all of it was read."""
        return self.ended and self.pos == len(self.text)

    def push(self, text: str) -> None:
        """Add text that arrived."""
        self.text = self.text[self.pos :] + text
        self.pos = 0

    def unread(self, text: str) -> None:
        """Put back text that was read, while nothing is recorded."""
        self.text = text + self.text[self.pos :]
        self.pos = 0

    def record(self, before: str = "") -> None:
        """Remember what is read from here on, behind ``before``, to give it back when it turns out to be no call."""
        self._log = [before]

    def recorded(self) -> str:
        """Return what was read since :meth:`record`, which ends with this."""
        log, self._log = self._log, None
        return "".join(log or ())

    def _take(self, end: int) -> str:
        taken = self.text[self.pos : end]
        self.pos = end
        if self._log is not None:
            self._log.append(taken)
        if self.copy is not None:
            self.copy.append(taken)
        return taken

    def peek(self) -> Generator[None, None, str]:
        """Return the next character, which stays unread; "" at the end."""
        while self.pos >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.pos]

    def run(self, pattern: re.Pattern[str], show: Callable[[str], object] | None = None) -> Generator[None, None, str]:
        """Read the characters that ``pattern`` (a repeated class) matches from here; shown as they come, or
        returned."""
        taken = []
        while True:
            found = pattern.match(self.text, self.pos)
            end = found.end() if found else self.pos
            piece = self._take(end)
            if piece:
                if show is None:
                    taken.append(piece)
                else:
                    show(piece)
            if self.pos < len(self.text) or self.ended:
                return "".join(taken)
            yield

    def blank(self) -> Generator[None, None, str]:
        """Return the whitespace from here on."""
        return self.run(_BLANK)

    def one_of(self, *literals: str) -> Generator[None, None, str]:
        """Read the longest literal that stands here; "" when there is none."""
        while True:
            here = self.text[self.pos : self.pos + max(map(len, literals))]
            if self.ended or not any(len(here) < len(one) and one.startswith(here) for one in literals):
                found = max((one for one in literals if here.startswith(one)), key=len, default="")
                if self.cut and not found and here and any(one.startswith(here) for one in literals):
                    self._take(len(self.text))
                self._take(self.pos + len(found))
                return found
            yield

    def until(self, literals: tuple[str, ...], show: Callable[[str], object]) -> Generator[None, None, str]:
        """Show the text before the first literal, and read that literal; "" when the reply ends before one comes.

        Of the literals that begin at the same place the longest is meant.
        """
        search, longest = _search(literals)
        while True:
            found = search.search(self.text, self.pos)
            part = len(self.text) if self.ended and not self.cut else self._beginning(literals, longest)
            if found and found.start() < part:
                self._show(found.start(), show)
                return self._take(found.end())
            self._show(part, show)
            if self.ended:
                self._take(len(self.text))
                return ""
            yield

    def rest(self, show: Callable[[str], object]) -> Reading:
        """Show everything from here on."""
        while True:
            self._show(len(self.text), show)
            if self.ended:
                return
            yield

    def _beginning(self, literals: tuple[str, ...], longest: int) -> int:
        """Where the unread text ends in something that may become a literal; its end when it does not."""
        for start in range(max(self.pos, len(self.text) - longest + 1), len(self.text)):
            tail = self.text[start:]
            if any(len(tail) < len(one) and one.startswith(tail) for one in literals):
                return start
        return len(self.text)

    def _show(self, end: int, show: Callable[[str], object]) -> None:
        if end > self.pos:
            show(self._take(end))


@lru_cache(maxsize=256)
def _search(literals: tuple[str, ...]) -> tuple[re.Pattern[str], int]:
    by_length = sorted(literals, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, by_length))), len(by_length[0])


__all__ = ["InputBuffer", "Reading"]
