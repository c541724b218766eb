"""Pieces in, text out: UTF-8 decoding that never cuts a character in two."""

from __future__ import annotations

from codecs import utf_8_decode

__all__ = ["Detokenizer"]


class Detokenizer:
    """Turns a stream of pieces (bytes, not always valid UTF-8 alone) into valid text.

    However the bytes are cut, the texts returned by `feed` and the final `flush` join to
    `data.decode("utf-8", "replace")`: a character that is not complete yet is held back, and every maximal
    ill-formed run becomes one U+FFFD, as the Unicode standard recommends.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = b""
        """The bytes held back: the beginning of a character, at most 3 bytes."""

    def feed(self, piece: bytes | str) -> str:
        """Add bytes, or text that has been decoded already, and return the characters that are complete now."""
        if isinstance(piece, str):
            if not self.pending:
                return piece
            piece = piece.encode()
        data = self.pending + piece if self.pending else piece
        text, used = utf_8_decode(data, "replace", False)
        self.pending = data[used:]
        return text

    def flush(self) -> str:
        """End the stream: return what was held back, replaced by U+FFFD, and be ready for a new stream."""
        data, self.pending = self.pending, b""
        return data.decode("utf-8", "replace")
