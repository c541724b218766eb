"""How often the tokens of drafts are right, from those that were compared with the text."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Protocol, runtime_checkable

_EXPECTED = (1.0, 0.8)
"""How often a token is right, before anything is known: after a draft that was right as a whole, and after another."""
_NEW = 1 / 5
"""Weight of what was just seen in what is known."""
_AHEAD = 8
"""Places of a draft that are looked at beyond those that are known."""

_SURE = 4
"""As many tokens that were compared count what was expected."""
_REMEMBERED = 32
"""Tokens of each kind that count."""
_REACHED = 1 / 64
"""A place that fewer drafts than this reach is not worth its row, whatever a row costs."""


@runtime_checkable
class SortingDrafter(Protocol):
    """A drafter that takes no time for a draft, and sorts the tokens of its drafts by how much speaks for them."""

    expected: Tokens[float]
    """How often tokens of each kind are right, before anything is known of a text."""

    def kinds(self, tokens: Tokens[int], n_max: int) -> Tokens[int]:
        """Return the kind of each token of the next draft, of at most ``n_max`` tokens, for a text; empty for none.

        Called with the text of the draft to come, before that is asked for.
        """


class Acceptance(Protocol):
    """What is known of the drafts of one text."""

    n_watched: int
    """Tokens of a draft that is only compared."""
    goes_on: bool
    """Whether places behind those in :meth:`rates` are as the last one of them."""

    def begin(self, tokens: Tokens[int], n_max: int) -> bool:
        """Look at the text of the next draft, of at most ``n_max`` tokens; whether there may be a draft."""

    def rates(self, n_max: int) -> Tokens[float]:
        """How often the token at each place of the next draft is right, if those before it are."""

    def learn(self, n_right: int, length: int) -> None:
        """Record that so many tokens of the last draft were right."""

    def watched(self, n_right: int, length: int) -> None:
        """The same of a draft that was only compared."""


class ByPlace:
    """By the place in the draft. Drafts are right in rows, so what came after a draft that was right as a whole is
    known apart from the rest."""

    n_watched = 2
    goes_on = True

    __slots__ = ("_known", "_missed")

    def __init__(self) -> None:
        self._missed = False
        """Whether the last draft had a wrong token."""
        self._known: tuple[list[float], list[float]] = ([], [])
        """By ``_missed``."""

    def begin(self, tokens: Tokens[int], n_max: int) -> bool:
        """See :class:`Acceptance`."""
        return True

    def rates(self, n_max: int) -> list[float]:
        """See :class:`Acceptance`."""
        known = self._known[self._missed]
        # A place that no draft has reached is as good as the last known one.
        last = known[-1] if known else _EXPECTED[self._missed]
        return (known + [last] * _AHEAD)[:n_max]

    def learn(self, n_right: int, length: int) -> None:
        """See :class:`Acceptance`."""
        known = self._known[self._missed]
        for place in range(min(n_right + 1, length)):
            if place == len(known):
                known.append(_EXPECTED[self._missed])
            known[place] += _NEW * ((place < n_right) - known[place])
        self._missed = n_right < length

    def watched(self, n_right: int, length: int) -> None:
        """See :class:`Acceptance`."""
        self.learn(n_right, length)
        if not self._missed:
            # Perhaps the text has changed, and what was seen before says nothing of it.
            self._known[False].clear()


class BySort:
    """By the kind of each token, as the drafter sorts them."""

    n_watched = 1
    goes_on = False

    __slots__ = ("_drafter", "_kinds", "_n", "_right")

    def __init__(self, drafter: SortingDrafter) -> None:
        self._drafter = drafter
        self._kinds: Tokens[int] = ()
        self._right = list(drafter.expected)
        self._n = [_SURE] * len(self._right)

    def begin(self, tokens: Tokens[int], n_max: int) -> bool:
        """See :class:`Acceptance`."""
        self._kinds = self._drafter.kinds(tokens, n_max)
        return len(self._kinds) > 0

    def rates(self, n_max: int) -> list[float]:
        """See :class:`Acceptance`."""
        rates: list[float] = []
        right, reached = self._right, 1.0
        for kind in self._kinds[:n_max]:
            reached *= right[kind]
            if reached < _REACHED:
                break
            rates.append(right[kind])
        return rates

    def learn(self, n_right: int, length: int) -> None:
        """See :class:`Acceptance`."""
        for place, kind in enumerate(self._kinds[: min(n_right + 1, length)]):
            self._n[kind] = n = min(self._n[kind] + 1, _REMEMBERED)
            self._right[kind] += ((place < n_right) - self._right[kind]) / n

    def watched(self, n_right: int, length: int) -> None:
        """See :class:`Acceptance`."""
        self.learn(n_right, length)


__all__ = ["Acceptance", "ByPlace", "BySort", "SortingDrafter"]
