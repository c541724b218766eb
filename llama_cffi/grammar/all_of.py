"""Several constraints on one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.errors import GrammarError
from llama_cffi.grammar.matcher import Constraint, Matcher

if TYPE_CHECKING:
    from numpy.typing import NDArray


class AllOf:
    """A constraint that every one of its parts keeps. Raises ValueError for no parts."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.constraints = tuple(constraints)
        if not self.constraints:
            raise ValueError("there must be at least one constraint")

    def start(self) -> AllMatcher:
        """Return a matcher for the beginning of a text."""
        started: list[Matcher] = []
        try:
            for constraint in self.constraints:
                started.append(constraint.start())
        except BaseException:
            for matcher in started:
                matcher.close()
            raise
        return AllMatcher(started)


class AllMatcher:
    """One text under several constraints.

    A token is accepted by all parts or by none. A part that can tell without accepting (``allows(token) -> bool``) is
    asked first. Of the others, one is told last to accept, and leaves everything as it was when it refuses; where
    there are more, their masks are looked at.
    """

    __slots__ = ("_asked", "_last", "_looked_at", "_mask", "_parts")

    def __init__(self, parts: Sequence[Matcher]) -> None:
        self._parts = tuple(parts)
        self._asked = [part for part in self._parts if hasattr(part, "allows")]
        untold = [part for part in self._parts if not hasattr(part, "allows")]
        self._last = untold[-1] if untold else self._asked[-1]
        self._looked_at = untold[:-1]
        self._mask: NDArray[np.uint32] | None = None

    def allows(self, token: int) -> bool:
        """Return whether every part lets the token through."""
        if not all(part.allows(token) for part in self._asked):
            return False
        looked_at = self._looked_at if self._last in self._asked else [*self._looked_at, self._last]
        return all(_in_mask(part, token) for part in looked_at)

    def accept(self, token: int) -> bool:
        """Advance every part by the token; False when one refuses it, and then nothing has changed."""
        if not all(part.allows(token) for part in self._asked):
            return False
        if not all(_in_mask(part, token) for part in self._looked_at):
            return False
        if not self._last.accept(token):
            return False
        for part in self._parts:
            if part is not self._last and not part.accept(token):
                raise GrammarError(f"a constraint allowed token {token} and then refused it")
        return True

    def mask(self) -> NDArray[np.uint32]:
        """Return the tokens that every part allows; written again by the next call.

        Raises :class:`GrammarError` when there is none.
        """
        for i, part in enumerate(self._parts):
            mask = part.mask()
            if self._mask is None:
                self._mask = np.empty_like(mask)
            if i:
                np.bitwise_and(self._mask, mask, out=self._mask)
            else:
                self._mask[:] = mask
        assert self._mask is not None  # there is at least one part
        if not self._mask.any():
            raise GrammarError("the constraints allow no token in common")
        return self._mask

    @property
    def complete(self) -> bool:
        """Whether the text may end here by every part."""
        return all(part.complete for part in self._parts)

    @property
    def ended(self) -> bool:
        """Whether nothing can follow, by one part, and the text is complete by all."""
        return self.complete and any(part.ended for part in self._parts)

    def close(self) -> None:
        """Give back what every part holds. Idempotent."""
        for part in self._parts:
            part.close()


def _in_mask(part: Matcher, token: int) -> bool:
    mask = part.mask()
    return 0 <= token < 32 * len(mask) and bool(int(mask[token // 32]) >> token % 32 & 1)


__all__ = ["AllMatcher", "AllOf"]
