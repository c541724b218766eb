"""Guessing what comes next, for the target to check many tokens in one decode (Leviathan et al. 2023,
"Fast Inference from Transformers via Speculative Decoding").

A draft never changes what is generated: the target's own sampler picks every token, and a draft only says for which
tokens the logits are computed ahead. A token that equals the draft makes the next row valid, the first that differs
ends the draft; as a draft is no draw of its own, that leaves the target's distribution as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from typing import NamedTuple, Protocol, runtime_checkable

from llama_cffi.core.prompt import common_prefix
from llama_cffi.engine.acceptance import Acceptance, ByPlace, BySort, SortingDrafter
from llama_cffi.engine.decode_cost import DecodeCost, blend
from llama_cffi.errors import TokenError
from llama_cffi.reply.completion import Speculation

_FIRST_PAUSE = 8
_LONGEST_PAUSE = 256
_FREE = 1 / 64
"""A token of a draft that takes less than this part of a decode takes no time."""
_REMEASURED = 64
"""After so many drafts one decode goes without, to see what that takes now."""
_UNMEASURED = 16
"""Most tokens of a draft and the one before it, while no more rows were measured."""
_LONGER = 4
"""They are at most this many times the rows of the largest decode that was measured."""
_WORTH = 1.08
"""How many times faster than none a draft must promise to be: the best of several guesses is often too good."""
_CLOSE = 16
"""Lengths up to this one are compared one by one, and longer ones in steps of four."""


class Drafter(Protocol):
    """Drafts the continuation of one text. It gets the whole text each time, so it has no state to undo.

    One that is a :class:`~llama_cffi.engine.acceptance.SortingDrafter`, too, says itself which of its tokens are alike,
    and a :class:`SharingDrafter` drafts for several texts at once.
    """

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """At most ``n_max`` tokens that may follow ``tokens``; empty for no guess.

        ``tokens`` is the prompt and everything generated (after a context shift: what is left of it); the list
        changes after the call. ``seq_id`` is the target's sequence: no other text is in it at the same time.
        """


class Wanted(NamedTuple):
    """A draft that a drafter is asked for; see :meth:`Drafter.propose`."""

    drafter: Drafter
    tokens: Tokens[int]
    n_max: int
    seq_id: int


class SharedDrafts(Protocol):
    """What drafts for several texts at once."""

    def propose_all(self, wanted: Tokens[Wanted]) -> list[list[int]]:
        """Return a draft for each of several texts, of different sequences.

        When it raises one of the package's errors, each drafter is asked by itself.
        """


@runtime_checkable
class SharingDrafter(Protocol):
    """A drafter whose drafts cost less together with those of others."""

    @property
    def together(self) -> SharedDrafts:
        """What drafts for this one and for others."""


class DraftSource(Protocol):
    """Where the drafts of any number of texts come from."""

    def start(self) -> Drafter:
        """A drafter for one text."""


class DraftController:
    """The drafts of one sequence: how long they should be, and what came of them.

    A draft is as long as makes the most tokens per second, from what decodes take (``pace``), what drafting takes, and
    how often such tokens were right (:class:`Acceptance`). When none at all would be faster, some tokens are drafted
    and compared with those that come without them: if they are right, it begins anew. Unless drafting takes no time,
    there are 8 tokens before the next comparison, and after each one that fails twice as many, up to 256.
    """

    __slots__ = (
        "_acceptance",
        "_ahead",
        "_asked",
        "_clock",
        "_dear",
        "_decode_cost",
        "_drafter",
        "_length",
        "_n_rollback",
        "_n_vocab",
        "_next_pause",
        "_only_watches",
        "_pause",
        "_seconds",
        "_since_plain",
        "_start",
        "_takes_time",
        "_wanted",
        "_watched",
        "n_accepted",
        "n_drafted",
        "together",
    )  # fmt: skip

    def __init__(
        self,
        drafter: Drafter,
        n_vocab: int,
        pace: DecodeCost,
        clock: Callable[[], float],
        *,
        n_rollback: int | None = None,
    ) -> None:
        self._drafter = drafter
        self._n_vocab = n_vocab
        self._decode_cost = pace
        self._clock = clock
        self._n_rollback = n_rollback
        """The longest draft of which only the wrong tokens are taken back; of a longer one the right ones are computed
        again in the next decode. None for any length."""
        self._acceptance: Acceptance = BySort(drafter) if isinstance(drafter, SortingDrafter) else ByPlace()
        self._takes_time = not isinstance(drafter, SortingDrafter)
        self.together = drafter.together if isinstance(drafter, SharingDrafter) else None
        """What drafts for this text and others at once; None where nothing does."""
        self._length = 0
        """Tokens of the last draft."""
        self._seconds = 0.0
        """What a token of a draft takes its drafter; 0 while that is not known."""
        self._asked = False
        self._since_plain = 0
        self._wanted = 0
        self._ahead: tuple[int, list[int] | None, float | None] | None = None
        """What was wanted before :meth:`propose`, and the draft and its seconds if the drafter was asked already."""
        self._only_watches = self._dear = False
        """Whether the draft that is wanted is only compared, and whether drafting takes time."""
        self._watched: list[int] = []
        """A draft that is only compared, with the text from token ``_start`` on."""
        self._start = 0
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        self.n_drafted = 0
        self.n_accepted = 0

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int, n_others: int = 0) -> list[int]:
        """The next draft, for a decode with ``n_others`` tokens of others.

        Raises :class:`TokenError` when a drafter proposes what is no token.
        """
        draft: list[int] | None = None
        seconds: float | None = None
        if self._ahead is not None:
            (length, draft, seconds), self._ahead = self._ahead, None
        else:
            length = self._choose(tokens, n_max, n_others + 1)
        if not length:
            return []
        if draft is None:
            start = self._clock()
            draft = self._drafter.propose(tokens, length, seq_id=seq_id)
            seconds = self._clock() - start
        return self._take(tokens, draft[:n_max], seconds)

    @property
    def asked(self) -> bool:
        """Whether the drafter was asked before: the first time it may compute the whole prompt."""
        return self._asked

    def want(self, tokens: Tokens[int], n_max: int, *, seq_id: int, n_others: int = 0) -> Wanted | None:
        """Return what the next :meth:`propose` will ask the drafter for; None for no draft."""
        length = self._choose(tokens, n_max, n_others + 1)
        self._ahead = length, None, None
        return Wanted(self._drafter, tokens, length, seq_id) if length else None

    def expect(self, draft: list[int], seconds: float | None) -> None:
        """Give the next :meth:`propose` what was found for :meth:`want`, and its seconds if they are known."""
        if self._ahead is not None:
            self._ahead = self._ahead[0], draft, seconds

    def _choose(self, tokens: Tokens[int], n_max: int, n_plain: int) -> int:
        """How many tokens the drafter is to be asked for; 0 for none."""
        compared = bool(self._watched)
        if compared and not self._compare(tokens):
            return 0
        if self._pause:
            self._pause -= 1
            return 0
        if self._since_plain == _REMEASURED or not self._decode_cost.knows(n_plain):
            self._since_plain = 0
            return 0
        if not self._acceptance.begin(tokens, n_max):
            self._since_plain = 0
            return 0
        self._wanted = self._best(n_max, n_plain)
        self._only_watches = not self._wanted
        if self._only_watches:
            self._dear = self._seconds > _FREE * self._decode_cost.seconds(n_plain)
            if compared and self._dear:
                self._put_off()
                return 0
            self._wanted = min(n_max, self._acceptance.n_watched)
        return self._wanted

    def _take(self, tokens: Tokens[int], draft: list[int], seconds: float | None) -> list[int]:
        """Return what is to be computed of the draft that was found in so many seconds."""
        draft = draft[: self._wanted]
        for token in draft:
            if not 0 <= token < self._n_vocab:
                raise TokenError(f"the drafter proposed token {token}; the vocabulary has {self._n_vocab} tokens")
        if draft and self._asked and self._takes_time and seconds is not None:
            each = seconds / len(draft)
            self._seconds = blend(self._seconds, each) if self._seconds else each
        # The first time a draft model computes the whole prompt.
        self._asked = True
        if self._only_watches:
            self._watched, self._start = draft, len(tokens)
            if self._dear and not draft:
                self._put_off()
            return []
        self._next_pause = _FIRST_PAUSE
        self._since_plain = self._since_plain + 1 if draft else 0
        self._length = len(draft)
        self.n_drafted += len(draft)
        return draft

    def _put_off(self) -> None:
        self._pause = self._next_pause - 1
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)

    def _best(self, n_max: int, n_plain: int) -> int:
        """The length that makes the most tokens per second; 0 for no draft, and ``n_max`` when nothing speaks against
        longer ones.
        """
        pace = self._decode_cost
        # What a larger decode takes is a guess.
        n_max = min(n_max, max(_UNMEASURED, _LONGER * pace.sizes[-1]) - 1)
        rates = self._acceptance.rates(n_max)
        plain = pace.seconds(n_plain)
        share, tokens, best, best_rate = 1.0, float(n_plain), 0, _WORTH * n_plain / plain
        again = 0.0
        for length, right in enumerate(rates, 1):
            if self._n_rollback is not None:
                # With this token wrong, the next decode holds the accepted ones once more, and its own.
                again += share * (1 - right) * (pace.seconds(n_plain + length) - plain)
            share *= right
            tokens += share
            if length > _CLOSE and length % 4 and length < len(rates):
                continue
            seconds = pace.seconds(n_plain + length) + length * self._seconds
            if self._n_rollback is not None and length > self._n_rollback:
                seconds += again
            rate = tokens / seconds
            if rate > best_rate:
                best, best_rate = length, rate
        return n_max if best == len(rates) and self._acceptance.goes_on else best

    def _compare(self, tokens: Tokens[int]) -> bool:
        """Whether it is known now what the watched draft was worth."""
        watched, found = self._watched, tokens[self._start : self._start + len(self._watched)]
        n_right = common_prefix(watched, found)
        if n_right == len(found) < len(watched) and len(tokens) >= self._start:
            return False
        self._watched = []
        # A context shift has taken tokens away when there are fewer than before.
        if found:
            self._acceptance.watched(n_right, len(watched))
        return True

    def verified(self, n_accepted: int) -> None:
        """So many tokens of the last draft were right."""
        self._acceptance.learn(n_accepted, self._length)

    def pause(self) -> None:
        """No drafts for the next 8 tokens: there was no room in memory for the last one."""
        self._pause = _FIRST_PAUSE

    def result(self, n_chosen: int) -> Speculation:
        """The statistics of a text of which ``n_chosen`` tokens were chosen."""
        # A decode gives what it accepted of its draft, and one token more.
        return Speculation(self.n_drafted, self.n_accepted, n_chosen - self.n_accepted)


__all__ = ["DraftController", "DraftSource", "Drafter", "SharedDrafts", "SharingDrafter", "Wanted"]
