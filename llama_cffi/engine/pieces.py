"""What each token adds to a text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

Pieces = Mapping[int, "str | bytes | None"]
"""What each token adds to a text; see :meth:`Runner.pieces`."""


class VocabPieces(dict[int, "str | bytes | None"]):
    """The pieces of a vocabulary that were looked up so far; a dict finds them again without a Python call."""

    def __init__(self, vocab: Vocab, visible: frozenset[int]) -> None:
        self._vocab = vocab
        self._visible = visible

    def __missing__(self, token: int) -> str | bytes | None:
        vocab = self._vocab
        piece: str | bytes | None = None
        if not vocab.is_eog(token):
            piece = vocab.piece(token, special=token in self._visible)
            with suppress(UnicodeDecodeError):
                piece = piece.decode()
        self[token] = piece
        return piece


class EndingPieces(dict[int, "str | bytes | None"]):
    """Pieces, with tokens that end the text as the end of generation does."""

    def __init__(self, pieces: Pieces, tokens: frozenset[int]) -> None:
        super().__init__(dict.fromkeys(tokens))
        self._pieces = pieces

    def __missing__(self, token: int) -> str | bytes | None:
        self[token] = piece = self._pieces[token]
        return piece


__all__ = ["EndingPieces", "Pieces", "VocabPieces"]
