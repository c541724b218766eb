"""Drafts by prompt lookup: what followed when the text said the same before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from llama_cffi._util.scalars import is_int
from llama_cffi.core.prompt import common_prefix
from llama_cffi.engine.drafters import Drafter

_TRIED = 32
"""Most earlier places that are compared with the end of the text, the last ones."""
_FOUND_BY = 2
"""Tokens by which these places are found: a single one has too many places."""
_REJOINED = 4
"""As many equal tokens a place counts at most that is found behind a difference. In recorded edits the tokens there
were as often right as those behind 4 equal tokens elsewhere."""
_NEAR = 8
"""Tokens behind a difference among which the text may go on."""
_FOLLOWED = 8
"""Tokens of a difference before the place is given up."""
_MOST_TRUST = 5.0
"""As many equal tokens a place counts at most where each token is another one instead; less if that was wrong before.
"""


_LENGTHS = (1, 2, 3, 4, 8, 16, 31)
"""The most equal tokens of each kind but the last."""
_RIGHT_ALONE = (0.35, 0.5, 0.6, 0.7, 0.75, 0.88, 0.95, 0.98)
_RIGHT_SAME = (0.75, 0.8, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
_RIGHT_OTHER = (0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 0.85, 0.97)
"""How often a token is right with so many equal ones before it, when there is no second place, when that has the same
token, and when it has another one: about what edited source files, lists in JSON and prose have in common."""
_EXPECTED = (*_RIGHT_ALONE, *_RIGHT_SAME, *_RIGHT_OTHER)
_MOST = _LENGTHS[-1] + 1
_CLASSES = tuple(bisect_left(_LENGTHS, length) for length in range(_MOST)) + (len(_LENGTHS),) * 1024
_ALONE = _CLASSES
_SAME = tuple(len(_RIGHT_ALONE) + one for one in _CLASSES)
_OTHER = tuple(len(_RIGHT_ALONE) + len(_RIGHT_SAME) + one for one in _CLASSES)
"""The kind of a token by how many equal ones are before it."""


@dataclass(frozen=True, kw_only=True)
class PromptLookup:
    """Drafts by prompt lookup: the tokens that followed an earlier occurrence of the last tokens in prompt and output.

    It takes almost no time and is often right where a text repeats its prompt: summaries, corrections, code, questions
    about a document. The place is chosen behind which most tokens are equal, the last of several. Where the text parts
    from a place that it repeated, as an edited text does, the next draft goes on behind the difference.
    """

    n_draft: int = 64
    """The most tokens of a draft. Drafts are shorter where decodes of so many rows take too long for what is gained."""

    max_ngram: int = 32
    """The most last tokens that are compared."""
    min_ngram: int = 1
    """The fewest last tokens that must be the same."""

    def __post_init__(self) -> None:
        for name in ("n_draft", "max_ngram", "min_ngram"):
            if not is_int(getattr(self, name), 1):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.min_ngram > self.max_ngram:
            raise ValueError(f"min_ngram={self.min_ngram} is above max_ngram={self.max_ngram}")

    def start(self) -> Drafter:
        """A drafter for one text."""
        return _Lookup(self)


class _Lookup:
    """The places of one text where each n-gram of a size ended, and the place that it follows now.

    A place is the index of the token behind it.
    """

    expected = _EXPECTED

    __slots__ = (
        "_before",
        "_behind",
        "_ends",
        "_guessed",
        "_length",
        "_max",
        "_n_draft",
        "_n_parted",
        "_n_seen",
        "_other",
        "_parted",
        "_place",
        "_size",
        "_trust",
    )  # fmt: skip

    def __init__(self, options: PromptLookup) -> None:
        self._n_draft, self._max = options.n_draft, options.max_ngram
        self._size = min(max(options.min_ngram, _FOUND_BY), options.max_ngram)
        self._ends: dict[tuple[int, ...], int] = {}
        """The last place of each n-gram."""
        self._before: list[int] = []
        """For each place, the one before it of the same n-gram; 0 for none."""
        self._behind: dict[int, int] | None = {} if options.min_ngram < self._size else None
        """The last place behind each token, where a single equal one is enough."""
        self._n_seen = 0
        self._place = self._length = 0
        """The place that the text follows, and how many tokens before it are equal to the last ones; 0 for none."""
        self._parted = self._n_parted = 0
        """The place from which the text parted a few tokens ago, and how many; 0 for none."""
        self._guessed, self._trust = False, _MOST_TRUST / 2
        """Whether the place is the one if those tokens are other ones instead, and how often that was right."""
        self._other = 0
        """Of the other places, the one with most equal tokens before it; 0 for none."""

    def kinds(self, tokens: Tokens[int], n_max: int) -> Tokens[int]:
        """See :class:`SortingDrafter`. Tokens are sorted by how many equal ones are before them, up to ``max_ngram``,
        and by whether the next best place has the same token, another one, or there is no such place."""
        self._find(tokens)
        if not self._length:
            return ()
        n, length = min(n_max, self._n_draft), min(self._length, _MOST)
        place, other = self._place, self._other
        n_known = min(n, len(tokens) - max(place, other)) if other else 0
        same = common_prefix(tokens[place : place + n_known], tokens[other : other + n_known])
        differs = same < n_known
        return (
            _SAME[length : length + same]
            + _OTHER[length + same : length + same + differs]
            + _ALONE[length + same + differs : length + n]
        )

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """See :class:`Drafter`."""
        n = len(tokens)
        if self._n_seen != n:
            self._find(tokens)
        if not self._length:
            return []
        place, n_max = self._place, min(n_max, self._n_draft)
        draft = list(tokens[place : place + n_max])
        if draft and min(draft) < 0:
            return draft[: next(i for i, cell in enumerate(draft) if cell < 0)]  # media are not generated
        # A match that reaches the end of the text goes on with the draft itself, as a repetition does.
        while len(draft) < n_max:
            draft.append(draft[place - n])
        return draft

    def _find(self, tokens: Tokens[int]) -> None:
        """Find the place for the next draft: the one that the text has followed so far, or a better one."""
        self._follow(tokens)
        n, size, most = len(tokens), self._size, self._max
        last, self._other = n - 1, 0
        place, second = self._ends.get(tuple(tokens[n - size :]), 0) if n > size else 0, 0
        for _ in range(_TRIED):
            if not place:
                break
            best = self._length
            # Most places are no better, which the token shows that would make them so.
            if place > second and place != self._place and tokens[place - 1 - second] == tokens[last - second]:
                length, limit = 0, min(place, most)
                while length < limit and tokens[place - 1 - length] == tokens[last - length]:
                    length += 1
                if length > best or length == most:
                    self._other, second = self._place if best else 0, best
                    self._place, self._length = place, length
                elif length > second:
                    self._other, second = place, length
            if self._length == most and place == self._place:
                break  # it is the last one of those with most equal tokens
            place = self._before[place]
        if not self._length and self._behind is not None and n and (place := self._behind.get(tokens[last], 0)):
            self._place, self._length = place, 1

    def _follow(self, tokens: Tokens[int]) -> None:
        """Take note of the tokens that are new since the last time."""
        ends, before, behind, size, n = self._ends, self._before, self._behind, self._size, len(tokens)
        if n < self._n_seen:
            # A context shift took tokens away: every place is another one now.
            ends.clear()
            before.clear()
            if behind is not None:
                behind.clear()
            self._n_seen = self._length = self._parted = 0
            self._guessed = False
        for new in range(self._n_seen, n):
            # The n-gram that ends at the end of the text has nothing behind it yet.
            before.append(0)
            if new >= size:
                gram = tuple(tokens[new - size : new])
                before[new] = ends.get(gram, 0)
                ends[gram] = new
            if new and behind is not None:
                behind[tokens[new - 1]] = new
            if self._length or self._parted:
                self._go_on(tokens, new)
        self._n_seen = n

    def _go_on(self, tokens: Tokens[int], new: int) -> None:
        """Compare a new token with the one that was expected."""
        token, right = tokens[new], self._length > 0 and tokens[new] == tokens[self._place]
        if self._guessed:
            self._trust += (_MOST_TRUST * right - self._trust) / 4
            self._guessed = False
        if right:
            self._place += 1
            self._length = min(self._length + 1, self._max)
            if self._length >= 2 * _REJOINED:
                self._parted = 0
            return
        if self._length >= (2 * _REJOINED if self._parted else _REJOINED):
            self._parted, self._n_parted = self._place, 0
        self._length = 0
        if not self._parted:
            return
        self._n_parted += 1
        if self._n_parted > _FOLLOWED:
            self._parted = 0
            return
        # Perhaps some tokens were left out or put in; otherwise each is another one instead.
        near = list(tokens[self._parted : min(new, self._parted + _NEAR)])
        if token in near:
            self._place, self._length = self._parted + near.index(token) + 1, _REJOINED + 1
        else:
            self._place, self._length = min(self._parted + self._n_parted, new), int(self._trust)
            self._guessed = self._length > 0


__all__ = ["PromptLookup"]
