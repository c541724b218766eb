"""A constraint that begins where a given text ends, for example at the end of reasoning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.matcher import Constraint, Matcher


class AfterText:
    """Allows any text up to the first ``end``, white space after it, and then what ``constraint`` allows."""

    def __init__(self, constraint: Constraint, end: str, vocab: Vocab) -> None:
        if not end:
            raise ValueError("end must not be empty")
        self.constraint = constraint
        self.end = end.encode()
        self.vocab = vocab
        # A token that goes on behind the end with more than white space would begin the answer unseen.
        last = self.end[-1:]
        self.doubtful = [
            token
            for token, piece in enumerate(vocab.pieces())
            if last in piece and any(piece[i + 1 :].strip() for i in range(len(piece)) if piece[i : i + 1] == last)
        ]

    def start(self) -> AfterMatcher:
        """Return a matcher for the beginning of a text."""
        return AfterMatcher(self, self.constraint.start())


class AfterMatcher:
    """One text under an :class:`AfterText`."""

    __slots__ = ("_blank", "_inner", "_mask", "_of", "_reached", "_tail")

    def __init__(self, of: AfterText, inner: Matcher) -> None:
        self._of = of
        self._inner = inner
        self._tail = b""
        self._reached = False
        self._blank = True
        """Whether nothing but white space has come behind the end."""
        self._mask: NDArray[np.uint32] | None = None

    def accept(self, token: int) -> bool:
        """Advance by a token; False when it is not allowed here, and then nothing has changed."""
        of = self._of
        if self._reached:
            if self._inner.accept(token):
                self._blank = False
                return True
            return self._blank and not of.vocab.is_eog(token) and self._is_space(token)
        if of.vocab.is_eog(token) or not self._fits(token):
            return False
        text = self._tail + of.vocab.piece(token, special=True)
        self._reached = of.end in text
        self._tail = text[-len(of.end) + 1 :] if len(of.end) > 1 else b""
        return True

    def mask(self) -> NDArray[np.uint32]:
        """Return the tokens allowed here; written again by the next call."""
        of = self._of
        if self._reached:
            return self._inner.mask()
        n_vocab = len(of.vocab)
        bits = np.zeros((n_vocab + 31) // 32 * 32, dtype=np.uint8)
        bits[:n_vocab] = 1
        bits[list(of.vocab.eog_tokens)] = 0
        bits[[token for token in of.doubtful if not self._fits(token)]] = 0
        self._mask = np.packbits(bits, bitorder="little").view("<u4")
        return self._mask

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._reached and self._inner.complete

    @property
    def ended(self) -> bool:
        """Whether the text is complete and nothing can follow."""
        return self._reached and self._inner.ended

    def close(self) -> None:
        """Give back what is held. Idempotent."""
        self._inner.close()

    def _fits(self, token: int) -> bool:
        _, found, rest = (self._tail + self._of.vocab.piece(token, special=True)).partition(self._of.end)
        return not found or not rest.strip()

    def _is_space(self, token: int) -> bool:
        piece = self._of.vocab.piece(token)
        return bool(piece) and not piece.strip()


__all__ = ["AfterMatcher", "AfterText"]
