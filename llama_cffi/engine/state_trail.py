"""What a target has computed last of one sequence, and how much of it draft heads have computed after it."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEPT = 64
"""Hidden states that stay after the heads have used them: so far a text may be cut back without a loss."""
_COMPARED = 256
"""Last tokens that are compared with a text whose earlier tokens were compared before."""


class StateTrail:
    """The tokens of one sequence from position ``start`` on, and the hidden states of the last of them.

    Heads compute pairs: a token beside the state of the token before it. ``n_held`` is the position of the first token
    whose pair they do not have in memory. It is ``end + 1`` after a draft, which begins with a token that the target
    has not computed yet.
    """

    __slots__ = (
        "_ahead", "_compared", "_first", "_states", "is_new", "n_encoded", "n_held", "offset", "start", "tokens"
    )  # fmt: skip

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._states: list[NDArray[np.float32]] = []
        self._restart(0)

    def _restart(self, position: int) -> None:
        self.tokens.clear()
        self._states.clear()
        self.start = self._first = position
        # Nothing is known of the state before the first token.
        self.n_held = position + 1
        self.n_encoded = position
        """The position up to which states have gone through an encoder, where the heads have one."""
        self._ahead: int | None = None
        """The token behind the last known one, which the heads have computed already."""
        self._compared = False
        self.offset: int | None = None
        """How much the position of a token is above its index in the text; None until that is known."""
        self.is_new = True
        """Whether no draft of the text was begun."""

    @property
    def end(self) -> int:
        """The position behind the last known token."""
        return self.start + len(self.tokens)

    def add(self, position: int, tokens: Tokens[int], states: Tokens[NDArray[np.float32]]) -> None:
        """Add what the target has computed from a position on; what was known from there on is replaced."""
        if not self.start <= position <= self.end:
            self._restart(position)
        if position < self.n_held:
            is_next = position == self.n_held - 1 and self._ahead == tokens[0]
            self.n_held = max(position + is_next, self.start + 1)
        self._ahead = None
        self._cut(position)
        self.tokens += tokens
        self._states += states

    def _cut(self, position: int) -> None:
        del self.tokens[position - self.start :]
        del self._states[max(0, position - self._first) :]
        self._first = min(self._first, position)
        if self._first + len(self._states) != position:
            # An interrupt came between the tokens and their states.
            self._states.clear()
            self._first = position
        self.n_encoded = min(self.n_encoded, position)

    def begin(self) -> None:
        """Say that another text than before follows in this sequence."""
        self._compared, self.offset, self.is_new = False, None, True

    def align(self, text: Tokens[int]) -> bool:
        """Cut the trail to a text of which the target has computed all but the last token.

        Return whether the trail ends with the text, and the state of its end is known. Tokens at the beginning that
        are not those of the text are forgotten.
        """
        n = len(text) - 1
        if self.offset is None:
            # Media have fewer positions than cells.
            self.offset = self.end - n if min(text) < 0 else 0
        position = n + self.offset
        if not self.start < position <= self.end:
            return False
        self._cut(position)
        self.n_held, self._ahead = min(self.n_held, position), None
        if self.n_held <= self.start:
            self.n_held = self.start + 1
        known, whole = self.tokens, not self._compared
        n_compared = min(len(known), n) if whole else min(len(known), n, _COMPARED)
        end = text[n - n_compared : n]
        if known[-n_compared:] != end:
            n_equal = next(i for i in range(n_compared) if known[-1 - i] != end[-1 - i])
            self.forget(position - n_equal)
        self._compared = True
        if not self.tokens:
            self.offset = None
        return self.state(position - 1) is not None

    def began_with(self, token: int) -> None:
        """Record that the heads have the pair of the token behind the last known one."""
        self.n_held, self._ahead = self.end + 1, token

    def forget(self, position: int) -> None:
        """Forget the tokens before a position."""
        n = position - self.start
        if n <= 0:
            return
        del self.tokens[:n]
        del self._states[: max(0, position - self._first)]
        self.start, self._first = position, max(self._first, position)
        self.n_held = max(self.n_held, position + 1)
        self.n_encoded = max(self.n_encoded, position)

    def shares_with(self, other: StateTrail, text: Tokens[int]) -> bool:
        """Return whether the heads have all of a text before this trail in the memory of another one."""
        n = self.start - other.start
        if self is other or n <= 0 or self.offset != 0 or other.n_held < self.start or other.end < self.start:
            return False
        return other.tokens[:n] == text[other.start : self.start]

    def adopt(self, other: StateTrail) -> None:
        """Put what :meth:`shares_with` has found before this trail. Of its first token's pair, the state is unknown."""
        if self.n_held == self.start + 1:
            self.n_held = self.start
        self.tokens[:0] = other.tokens[: self.start - other.start]
        self.start = other.start

    def drop(self) -> None:
        """Say that the heads have nothing in memory any more: they can compute again what is behind a known state."""
        self.forget(self._first)
        self.n_held, self._ahead = self.start + 1, None

    def state(self, position: int) -> NDArray[np.float32] | None:
        """Return the hidden state of the token at a position, or None where it is not known."""
        i = position - self._first
        return self._states[i] if 0 <= i < len(self._states) else None

    def states(self, start: int, stop: int) -> list[NDArray[np.float32]]:
        """Return the hidden states of the tokens from one position up to another, as far as they are known."""
        return self._states[start - self._first : stop - self._first]

    def encoded(self, states: Tokens[NDArray[np.float32]]) -> None:
        """Replace the states from ``n_encoded`` on by what an encoder has made of them."""
        i = self.n_encoded - self._first
        self._states[i : i + len(states)] = states
        self.n_encoded += len(states)

    def let_go(self) -> None:
        """Let the states go that the heads have used, except the last ones."""
        n = self.n_held - _KEPT - self._first
        if n > 0:
            # Copies: the rows of one decode share their memory.
            self._states = [state.copy() for state in self._states[n:]]
            self._first += n
            self.n_encoded = max(self.n_encoded, self._first)


class TrailText:
    """A text for which heads draft: its trail, the position of the last token that they have computed, and the pairs of
    a draft where each head computes all of them."""

    __slots__ = ("draft", "n_max", "pairs", "position", "seq_id", "tokens", "trail")

    def __init__(self, seq_id: int, trail: StateTrail, tokens: Tokens[int], n_max: int) -> None:
        self.seq_id, self.trail, self.tokens, self.n_max = seq_id, trail, tokens, n_max
        self.draft: list[int] = []
        self.position = 0
        self.pairs: list[tuple[int, NDArray[np.float32] | None]] = []


__all__ = ["StateTrail", "TrailText"]
