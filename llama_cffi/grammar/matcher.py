"""The interface of constraints to the engine: the tokens that may come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Matcher(Protocol):
    """The state of one text under a constraint. Not for two threads at once."""

    def accept(self, token: int) -> bool:
        """Advance by a token that was chosen; False when it is not allowed here, and then nothing has changed.

        A token that ends the generation is allowed where the text is complete.
        """

    def mask(self) -> NDArray[np.uint32]:
        """Return the tokens allowed here: bit ``t % 32`` of word ``t // 32``, shape ``(ceil(n_vocab / 32),)``.

        The array is written again by the next call. Raises :class:`GrammarError` when nothing is allowed, and when the
        constraint is too complex to go on.
        """

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""

    @property
    def ended(self) -> bool:
        """Whether the text is complete and nothing can follow."""

    def close(self) -> None:
        """Give back what is held. Idempotent."""


class Constraint(Protocol):
    """A compiled constraint: any number of texts may follow it, each with a matcher of its own."""

    def start(self) -> Matcher:
        """Return a matcher for the beginning of a text."""


__all__ = ["Constraint", "Matcher"]
