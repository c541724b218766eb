"""A limit on reasoning: after a number of tokens the model must begin its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.vocab import Vocab

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ReasoningBudget:
    """A constraint that lets ``n_tokens`` tokens of reasoning through, and then forces the text that ends it.

    ``start`` is the text that reasoning begins with, at the beginning of the reply; "" when the prompt began it.
    ``end`` is the text that ends it. ``closing`` is forced when the budget is spent: words for the model to finish
    with, then ``end``; None is ``end`` alone. Raises ValueError for a negative budget and for texts that do not fit.
    """

    def __init__(self, n_tokens: int, start: str, end: str, vocab: Vocab, *, closing: str | None = None) -> None:
        if n_tokens < 0:
            raise ValueError(f"n_tokens must not be negative, got {n_tokens}")
        if not end:
            raise ValueError("end must not be empty: it is how reasoning ends")
        closing = end if closing is None else closing
        if end not in closing:
            raise ValueError(f"closing must hold the text that ends reasoning, {end!r}")
        self.n_tokens = n_tokens
        self.start_text = start.encode()
        self.end_text = end.encode()
        self.vocab = vocab
        self.forced = _tokens_inside(closing, vocab)
        """The tokens of the closing text."""

    def start(self) -> BudgetMatcher:
        """Return a matcher for the beginning of a reply."""
        return BudgetMatcher(self)


class BudgetMatcher:
    """One reply under a :class:`ReasoningBudget`."""

    __slots__ = ("_budget", "_forced", "_full", "_inside", "_mask", "_over", "_spent", "_tail")

    def __init__(self, budget: ReasoningBudget) -> None:
        n_vocab = len(budget.vocab)
        self._budget = budget
        self._full = np.full((n_vocab + 31) // 32, 0xFFFFFFFF, dtype=np.uint32)
        if n_vocab % 32:
            self._full[-1] = (1 << n_vocab % 32) - 1
        self._mask: NDArray[np.uint32] = self._full.copy()
        self._spent = 0
        self._forced = -1
        """How many tokens of the closing text have come; -1 before it is forced."""
        self._inside = not budget.start_text
        self._over = False
        self._tail = b""
        self._begin_forcing()

    def _begin_forcing(self) -> None:
        if self._inside and not self._over and self._forced < 0 and self._spent >= self._budget.n_tokens:
            self._forced = 0

    @property
    def _forcing(self) -> bool:
        return self._forced >= 0 and not self._over

    def allows(self, token: int) -> bool:
        """Return whether the token may come next."""
        if self._forcing:
            return token == self._budget.forced[self._forced]
        return 0 <= token < len(self._budget.vocab)

    def accept(self, token: int) -> bool:
        """Advance by a token; False when the closing text has to come instead, and then nothing has changed."""
        if not self.allows(token):
            return False
        budget = self._budget
        if self._over or budget.vocab.is_eog(token):
            return True
        if self._forcing:
            self._forced += 1
            self._over = self._forced == len(budget.forced)
            return True
        self._tail += budget.vocab.piece(token)
        if self._inside:
            self._spent += 1
            self._over = budget.end_text in self._tail
            self._tail = self._tail[-len(budget.end_text) + 1 :] if len(budget.end_text) > 1 else b""
        else:
            self._look_for_start()
        self._begin_forcing()
        return True

    def _look_for_start(self) -> None:
        start = self._budget.start_text
        text = self._tail.lstrip()
        if text.startswith(start):
            self._inside = True
            self._tail = text[len(start) :]
            self._over = self._budget.end_text in self._tail
        elif not start.startswith(text):
            # The reply began with something else: it has no reasoning.
            self._over = True

    def mask(self) -> NDArray[np.uint32]:
        """Return the tokens allowed here: all, or the next one of the closing text."""
        if not self._forcing:
            return self._full
        token = self._budget.forced[self._forced]
        self._mask[:] = 0
        self._mask[token // 32] = 1 << token % 32
        return self._mask

    @property
    def complete(self) -> bool:
        """Whether the text may end here: not while the closing text is forced."""
        return not self._forcing

    @property
    def ended(self) -> bool:
        """Never: what follows the reasoning is free."""
        return False

    def close(self) -> None:
        """Nothing is held."""


def _tokens_inside(text: str, vocab: Vocab) -> tuple[int, ...]:
    """The tokens of a text that stands inside of another: some vocabularies put a blank before a text's beginning,
    but not behind a line break."""
    newline, whole = (
        vocab.tokenize(one, add_special=False, parse_special=True).tolist() for one in ("\n", f"\n{text}")
    )
    if whole[: len(newline)] == newline:
        return tuple(whole[len(newline) :])
    return tuple(vocab.tokenize(text, add_special=False, parse_special=True).tolist())


__all__ = ["BudgetMatcher", "ReasoningBudget"]
