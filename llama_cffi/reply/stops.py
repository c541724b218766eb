"""Stop strings in streamed text: the part that can be shown, and the part that must wait."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["StopMatcher"]


class StopMatcher:
    """Cuts a text that arrives in chunks before the first stop string in it.

    The earliest match wins, and the longest of those that begin at the same place; so the result depends on
    the text alone and not on how it was cut. Text that may still become a stop string is held back, which is
    why a stop that begins a longer one ("\\n" and "\\n\\n") waits for the next character, or for `flush`.

    Raises ValueError for an empty stop string, TypeError for one that is not a str. A single str is one stop.
    """

    __slots__ = ("_by_first", "_held", "_matched", "_search", "_stops")

    def __init__(self, stops: str | Sequence[str] = ()) -> None:
        wanted = (stops,) if isinstance(stops, str) else tuple(stops)
        for stop in wanted:
            if not isinstance(stop, str):
                raise TypeError(f"a stop string must be a str, not {type(stop).__name__}")
            if not stop:
                raise ValueError("a stop string must not be empty")
        self._stops = tuple(dict.fromkeys(wanted))
        self._held = ""
        self._matched: str | None = None

        # Longest first, so that the first complete match at a place is the right one.
        self._by_first: dict[str, list[str]] = {}
        for stop in sorted(self._stops, key=len, reverse=True):
            self._by_first.setdefault(stop[0], []).append(stop)
        firsts = "".join(map(re.escape, self._by_first))
        self._search = re.compile(f"[{firsts}]").search if firsts else None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings looked for, without duplicates."""
        return self._stops

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None as long as there was none."""
        return self._matched

    @property
    def held(self) -> str:
        """The text held back because it may be the beginning of a stop string."""
        return self._held

    def feed(self, text: str) -> str:
        """Add text and return what can be shown now; always empty once a stop string was found."""
        if self._search is None:
            return text
        if self._matched is not None:
            return ""
        if self._held:
            text = self._held + text
            self._held = ""
        found = self._search(text)
        if found is None:
            return text
        return self._cut(text, found.start(), last=False)

    def flush(self) -> str:
        """End the text (EOG, or length reached) and return what was held back.

        A stop string that was complete but waited for a longer one counts now: look at `matched` afterwards.
        """
        text, self._held = self._held, ""
        return self._cut(text, 0, last=True) if text else ""

    def _cut(self, text: str, place: int, *, last: bool) -> str:
        """Return `text` up to the first stop string or possible beginning of one, looking from `place` on."""
        length = len(text)
        while place < length:
            rest = length - place
            complete = None
            for stop in self._by_first.get(text[place], ()):
                if len(stop) > rest:
                    if not last and text.endswith(stop[:rest]):
                        self._held = text[place:]
                        return text[:place]
                elif text.startswith(stop, place):
                    complete = stop
                    break
            if complete is not None:
                self._matched = complete
                return text[:place]
            found = self._search(text, place + 1) if self._search else None
            if found is None:
                break
            place = found.start()
        return text
