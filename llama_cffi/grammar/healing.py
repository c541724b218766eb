"""Token healing: the end of a prompt is removed, and the generated text must begin with it.

A prompt that ends where the tokenizer would not have ended a token (``"http:"``, where ``"://"`` is a token) leads the
model astray. So its last tokens are left to the model, which may write them with longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.errors import GrammarError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.grammar.piece_index import PieceIndex

__all__ = ["Healing", "HealingMatcher", "tokens_to_heal"]

_MOST = 8
"""Tokens that are taken off at most."""


def tokens_to_heal(tokens: Sequence[int], index: PieceIndex) -> tuple[int, str]:
    """Return how many of a prompt's last tokens to take off, and their text.

    As many (at most 8) as have a longer token that begins with their text; none when the prompt can only end so. The
    first token stays, and so does everything up to a control token.
    """
    n, text, tail = 0, "", b""
    for count, token in enumerate(reversed(tokens[-_MOST:]), 1):
        piece = index.pieces[token]
        if not piece or count == len(tokens):
            break
        tail = piece + tail
        if any(index.pieces[longer] != tail for longer in index.beginning(tail)):
            try:
                n, text = count, tail.decode()
            except UnicodeDecodeError:
                # A cut inside a character: what belongs to the prompt could not be told from what follows it.
                continue
    return n, text


class Healing:
    """A constraint: the text begins with ``text``, and goes on as it likes. See :class:`Constraint`.

    Raises :class:`GrammarError` when the vocabulary cannot write the text.
    """

    def __init__(self, index: PieceIndex, text: str) -> None:
        self.index = index
        self.text = data = text.encode()
        n = len(data)
        self.can_end = [False] * n + [True]
        """Whether what is left from a byte on can be written; without single bytes in the vocabulary not all can."""
        for start in range(n - 1, -1, -1):
            self.can_end[start] = len(index.beginning(data[start:])) > 0 or any(
                self.can_end[end] and len(index.exact(data[start:end])) for end in range(start + 1, n)
            )
        if not self.can_end[0]:
            raise GrammarError(f"the vocabulary has no tokens for {text!r}")

    def start(self) -> HealingMatcher:
        return HealingMatcher(self)


class HealingMatcher:
    """How much of the text is written; see :class:`~llama_cffi.grammar.matcher.Matcher`."""

    __slots__ = ("_healing", "_written")

    ended = False

    def __init__(self, healing: Healing) -> None:
        self._healing = healing
        self._written = 0

    def accept(self, token: int) -> bool:
        healing = self._healing
        left = healing.text[self._written :]
        if not left:
            return True
        piece = healing.index.pieces[token]
        if piece.startswith(left):
            self._written = len(healing.text)
            return True
        if not piece or not left.startswith(piece) or not healing.can_end[self._written + len(piece)]:
            return False
        self._written += len(piece)
        return True

    def mask(self) -> NDArray[np.uint32]:
        healing = self._healing
        index, left = healing.index, healing.text[self._written :]
        n_words = (len(index.pieces) + 31) // 32
        allowed = np.zeros(32 * n_words, dtype=np.uint8)
        if left:
            allowed[index.beginning(left)] = 1
            for length in range(1, len(left)):
                if healing.can_end[self._written + length]:
                    allowed[index.exact(left[:length])] = 1
        else:
            allowed[:] = 1
        return np.packbits(allowed, bitorder="little").view(np.uint32)

    @property
    def complete(self) -> bool:
        return self._written == len(self._healing.text)

    def close(self) -> None:
        pass
