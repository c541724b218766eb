"""Guessing what comes next, for the target to check many tokens in one decode (Leviathan et al. 2023,
"Fast Inference from Transformers via Speculative Decoding").

A draft never changes what is generated: the target's own chooser picks every token, and a draft only says for which
tokens the logits are computed ahead. A token that equals the draft makes the next row valid, the first that differs
ends the draft; as a draft is no draw of its own, that leaves the target's distribution as it is.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Protocol

from llama_cffi.engine.request import Speculation
from llama_cffi.errors import TokenError

_MISSES = 3
_FIRST_PAUSE = 8
_LONGEST_PAUSE = 256


class Drafter(Protocol):
    """Guesses how one text goes on. It is told the whole text each time, so nothing must be taken back."""

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
    """Drafts by prompt lookup: the last tokens, found earlier in prompt and output, go on as they did there.

    It costs nothing and guesses well where a text repeats its prompt: summaries, corrections, code, questions about
    a document.
    """

    n_draft: int = 8
    """Most tokens of a draft."""
    max_ngram: int = 4
    """How many last tokens are looked for at first."""
    min_ngram: int = 2
    """How many at least."""

    def __post_init__(self) -> None:
        for name in ("n_draft", "max_ngram", "min_ngram"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
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
                while len(draft) < min(n_max, self._n_draft):
                    draft.append(draft[found - n])
                return draft
        return []


class Drafting:
    """The drafts of one sequence: how long they may be, and what came of them.

    A draft is at most twice as long as what was accepted of the one before, and one. After three drafts in a row of
    which nothing was accepted there are none for 8 tokens, and for twice as many each time that this happens again, up
    to 256, until something is accepted.
    """

    __slots__ = ("_drafter", "_length", "_misses", "_n_vocab", "_next_pause", "_pause", "n_accepted", "n_drafted")

    def __init__(self, drafter: Drafter, n_vocab: int) -> None:
        self._drafter = drafter
        self._n_vocab = n_vocab
        self._length = n_vocab
        self._misses = 0
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        self.n_drafted = 0
        self.n_accepted = 0

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """The next draft; :class:`TokenError` when a drafter proposes what is no token."""
        if self._pause:
            self._pause -= 1
            return []
        n_max = min(n_max, self._length)
        draft = self._drafter.propose(tokens, n_max, seq_id=seq_id)[:n_max]
        for token in draft:
            if not 0 <= token < self._n_vocab:
                raise TokenError(f"the drafter proposed token {token}; the vocabulary has {self._n_vocab} tokens")
        self.n_drafted += len(draft)
        return draft

    def verified(self, n_accepted: int) -> None:
        """So many tokens of the last draft were right."""
        self._length = 2 * n_accepted + 1
        if n_accepted:
            self._misses, self._next_pause = 0, _FIRST_PAUSE
            return
        self._misses += 1
        if self._misses == _MISSES:
            self._misses, self._pause = 0, self._next_pause
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)

    def pause(self) -> None:
        """No drafts for the next 8 tokens: there was no room in memory for the last one."""
        self._pause = _FIRST_PAUSE

    def result(self, n_chosen: int) -> Speculation:
        """The statistics of a text of which ``n_chosen`` tokens were chosen."""
        # A decode gives what it accepted of its draft, and one token more.
        return Speculation(self.n_drafted, self.n_accepted, n_chosen - self.n_accepted)


__all__ = ["DraftSource", "Drafter", "Drafting", "PromptLookup"]
