"""The pieces of a vocabulary in order: which tokens are a text, and which begin with it."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab

__all__ = ["PieceIndex"]


class PieceIndex:
    """Finds tokens by their bytes. Control tokens have none.

    Made by one pass over the vocabulary: 128,000 tokens take about a quarter of a second.
    """

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self.pieces = [vocab.piece(token, special=False) for token in range(vocab.n_tokens)]
        """The bytes of each token."""
        order = sorted(range(vocab.n_tokens), key=self.pieces.__getitem__)
        self._sorted = [self.pieces[token] for token in order]
        self._tokens: NDArray[np.int32] = np.array(order, dtype=np.int32)

    def exact(self, text: bytes) -> NDArray[np.int32]:
        """Return the tokens whose piece is ``text``, int32 of shape ``(n,)``; several tokens may have the same
        piece."""
        return self._between(text, text + b"\0")

    def beginning(self, text: bytes) -> NDArray[np.int32]:
        """Return the tokens whose piece begins with ``text``, int32 of shape ``(n,)``."""
        # The first bytes that come after everything beginning so: trailing 0xFF have no successor.
        stem = text.rstrip(b"\xff")
        return self._between(text, stem[:-1] + bytes([stem[-1] + 1]) if stem else None)

    def _between(self, low: bytes, high: bytes | None) -> NDArray[np.int32]:
        end = len(self._sorted) if high is None else bisect_left(self._sorted, high)
        return self._tokens[bisect_left(self._sorted, low) : end]
