"""Guessing what comes next, for the target to check many tokens in one decode (Leviathan et al. 2023,
"Fast Inference from Transformers via Speculative Decoding").

A draft never changes what is generated: the target's own sampler picks every token, and a draft only says for which
tokens the logits are computed ahead. A token that equals the draft makes the next row valid, the first that differs
ends the draft; as a draft is no draw of its own, that leaves the target's distribution as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Protocol

from llama_cffi._util.scalars import is_int
from llama_cffi.core.prompt import common_prefix
from llama_cffi.engine.decode_cost import DecodeCost, blend
from llama_cffi.errors import TokenError
from llama_cffi.reply.completion import Speculation

_FIRST_PAUSE = 8
_LONGEST_PAUSE = 256
_EXPECTED = (1.0, 0.8)
"""How often a token is right, before anything is known: after a draft that was right as a whole, and after another."""
_NEW = 1 / 5
"""Weight of what was just seen in what is known."""
_AHEAD = 8
"""Places of a draft that are looked at beyond those that are known."""
_WATCHED = 2
"""Tokens of a draft that is only watched: so many right in a row are reason to draft again."""
_FREE = 1 / 64
"""A token of a draft that takes less than this part of a decode takes no time."""
_REMEASURED = 64
"""After so many drafts one decode goes without, to see what that takes now."""


class Drafter(Protocol):
    """Drafts the continuation of one text. It gets the whole text each time, so it has no state to undo."""

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """At most ``n_max`` tokens that may follow ``tokens``; empty for no guess.

        ``tokens`` is the prompt and everything generated (after a context shift: what is left of it); the list
        changes after the call. ``seq_id`` is the target's sequence: no other text is in it at the same time.
        """


class DraftSource(Protocol):
    """Where the drafts of any number of texts come from."""

    def start(self) -> Drafter:
        """A drafter for one text."""


@dataclass(frozen=True, kw_only=True)
class PromptLookup:
    """Drafts by prompt lookup: the tokens that followed an earlier occurrence of the last tokens in prompt and output.

    It takes almost no time and is often right where a text repeats its prompt: summaries, corrections, code, questions
    about a document.
    """

    n_draft: int = 8
    """The most tokens of a draft."""

    max_ngram: int = 4
    """The number of last tokens that are searched for first."""
    min_ngram: int = 2
    """The smallest number of last tokens that are searched for."""

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
    """Where each n-gram of one text ended last."""

    __slots__ = ("_ends", "_n_draft", "_n_seen", "_sizes")

    def __init__(self, options: PromptLookup) -> None:
        self._n_draft = options.n_draft
        self._sizes = range(options.max_ngram, options.min_ngram - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}
        self._n_seen = 0

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        ends, n = self._ends, len(tokens)
        if n < self._n_seen:
            # A context shift took tokens away: every place is another one now.
            ends.clear()
            self._n_seen = 0
        for end in range(max(1, self._n_seen), n):
            for size in self._sizes:
                if size <= end:
                    ends[tuple(tokens[end - size : end])] = end
        self._n_seen = n
        for size in self._sizes:
            gram = tuple(tokens[-size:])
            found = ends.get(gram) if size <= n else None
            if found is not None and tuple(tokens[found - size : found]) == gram:
                # A match that reaches the end of the text goes on with the draft itself, as a repetition does.
                draft = list(tokens[found : found + min(n_max, self._n_draft)])
                if draft and min(draft) < 0:
                    return draft[: next(i for i, cell in enumerate(draft) if cell < 0)]  # media are not generated
                while len(draft) < min(n_max, self._n_draft):
                    draft.append(draft[found - n])
                return draft
        return []


class DraftController:
    """The drafts of one sequence: how long they should be, and what came of them.

    A draft is as long as makes the most tokens per second, from what decodes take (``pace``), what drafting takes, and
    how often the tokens at each place of a draft were right; drafts are right in rows, so what came after a draft that
    was right as a whole is known apart from the rest. When none at all would be faster, two tokens are drafted and
    compared with those that come without them: if both are right, it begins anew. Unless drafting takes no time, there
    are 8 tokens before the next comparison, and after each one that fails twice as many, up to 256.
    """

    __slots__ = (
        "_asked",
        "_clock",
        "_decode_cost",
        "_drafter",
        "_known",
        "_length",
        "_missed",
        "_n_rollback",
        "_n_vocab",
        "_next_pause",
        "_pause",
        "_seconds",
        "_since_plain",
        "_start",
        "_watched",
        "n_accepted",
        "n_drafted",
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
        self._missed = False
        """Whether the last draft had a wrong token."""
        self._known: tuple[list[float], list[float]] = ([], [])
        """How often the token at each place was right when those before it were, by ``_missed``."""
        self._length = 0
        """Tokens of the last draft."""
        self._seconds = 0.0
        """What a token of a draft takes its drafter; 0 while that is not known."""
        self._asked = False
        self._since_plain = 0
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
        n_plain = n_others + 1
        compared = bool(self._watched)
        if compared and not self._compare(tokens):
            return []
        if self._pause:
            self._pause -= 1
            return []
        if self._since_plain == _REMEASURED or not self._decode_cost.knows(n_plain):
            self._since_plain = 0
            return []
        length = self._best(n_max, n_plain)
        if not length:
            dear = self._seconds > _FREE * self._decode_cost.seconds(n_plain)
            if not compared or not dear:
                self._watched, self._start = self._draft(tokens, min(n_max, _WATCHED), seq_id), len(tokens)
            if dear and not self._watched:
                self._pause = self._next_pause - 1
                self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
            return []
        draft = self._draft(tokens, length, seq_id)
        self._next_pause = _FIRST_PAUSE
        self._since_plain = self._since_plain + 1 if draft else 0
        self._length = len(draft)
        self.n_drafted += len(draft)
        return draft

    def _best(self, n_max: int, n_plain: int) -> int:
        """The length that makes the most tokens per second; 0 for no draft, and ``n_max`` when nothing speaks against
        longer ones.
        """
        pace, known = self._decode_cost, self._known[self._missed]
        most = min(n_max, len(known) + _AHEAD)
        # A place that no draft has reached is as good as the last known one.
        share, right = 1.0, _EXPECTED[self._missed]
        tokens, best, best_rate = float(n_plain), 0, n_plain / pace.seconds(n_plain)
        again = 0.0
        for length in range(1, most + 1):
            if length <= len(known):
                right = known[length - 1]
            # With this token wrong, the next decode holds the accepted ones once more, and its own.
            again += share * (1 - right) * (pace.seconds(n_plain + length) - pace.seconds(n_plain))
            share *= right
            tokens += share
            seconds = pace.seconds(n_plain + length) + length * self._seconds
            if self._n_rollback is not None and length > self._n_rollback:
                seconds += again
            rate = tokens / seconds
            if rate > best_rate:
                best, best_rate = length, rate
        return n_max if best == most else best

    def _draft(self, tokens: Tokens[int], length: int, seq_id: int) -> list[int]:
        start = self._clock()
        draft = self._drafter.propose(tokens, length, seq_id=seq_id)[:length]
        for token in draft:
            if not 0 <= token < self._n_vocab:
                raise TokenError(f"the drafter proposed token {token}; the vocabulary has {self._n_vocab} tokens")
        if draft and self._asked:
            each = (self._clock() - start) / len(draft)
            self._seconds = blend(self._seconds, each) if self._seconds else each
        # The first time a draft model computes the whole prompt.
        self._asked = True
        return draft

    def _compare(self, tokens: Tokens[int]) -> bool:
        """Whether it is known now what the watched draft was worth."""
        watched, found = self._watched, tokens[self._start : self._start + len(self._watched)]
        n_right = common_prefix(watched, found)
        if n_right == len(found) < len(watched) and len(tokens) >= self._start:
            return False
        self._watched = []
        # A context shift has taken tokens away when there are fewer than before.
        if found:
            self._learn(n_right, len(watched))
            if not self._missed:
                # Perhaps the text has changed, and what was seen before says nothing of it.
                self._known[False].clear()
        return True

    def verified(self, n_accepted: int) -> None:
        """So many tokens of the last draft were right."""
        self._learn(n_accepted, self._length)

    def _learn(self, n_right: int, length: int) -> None:
        known = self._known[self._missed]
        for place in range(min(n_right + 1, length)):
            if place == len(known):
                known.append(_EXPECTED[self._missed])
            known[place] += _NEW * ((place < n_right) - known[place])
        self._missed = n_right < length

    def pause(self) -> None:
        """No drafts for the next 8 tokens: there was no room in memory for the last one."""
        self._pause = _FIRST_PAUSE

    def result(self, n_chosen: int) -> Speculation:
        """The statistics of a text of which ``n_chosen`` tokens were chosen."""
        # A decode gives what it accepted of its draft, and one token more.
        return Speculation(self.n_drafted, self.n_accepted, n_chosen - self.n_accepted)


__all__ = ["DraftController", "DraftSource", "Drafter", "PromptLookup"]
