"""Log-probabilities: which entries belong to the text that was given out, and both of OpenAI's forms."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi.reply.completion import TokenLogprob

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

_LEAST = -9999.0
"""What stands for minus infinity, which JSON does not have."""


class Aligner:
    """Keeps the entries of tokens until their text is given out, or turns out to be something else."""

    def __init__(self) -> None:
        self._held: list[TokenLogprob] = []

    def add(self, entries: Iterable[TokenLogprob], text: str, *, other: bool = False) -> list[TokenLogprob]:
        """Return the entries of the tokens that a piece of text is made of.

        With ``other`` something else was given out: reasoning or a call.
        """
        held = self._held
        held.extend(entries)
        if not text:
            if other:
                held.clear()
            return []
        data, pieces = text.encode(), b"".join(one.piece for one in held)
        start = pieces.rfind(data)
        if start < 0:  # characters that are not valid UTF-8 were replaced
            found = list(held)
            held.clear()
            return found
        end, place = start + len(data), 0
        found, left = [], []
        for one in held:
            begin, place = place, place + len(one.piece)
            if begin >= end:
                left.append(one)
            elif place > start or (begin == place and begin >= start):
                found.append(one)
        self._held = left
        return found


def number(value: float) -> float:
    """Return a log-probability that JSON can hold."""
    return value if math.isfinite(value) else _LEAST


def _shown(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": number(logprob)}


def chat_form(entries: Iterable[TokenLogprob], vocab: Vocab) -> list[dict[str, Any]]:
    """Return the entries as ``logprobs.content`` of a chat completion has them."""
    return [
        {
            "id": one.token,
            **_shown(one.piece, one.logprob),
            "top_logprobs": [{"id": token, **_shown(vocab.piece(token), value)} for token, value in one.top],
        }
        for one in entries
    ]


class LegacyForm:
    """The entries as ``logprobs`` of a completion has them; offsets go on from call to call."""

    def __init__(self, vocab: Vocab, offset: int = 0) -> None:
        self._vocab = vocab
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the entries of the next tokens."""
        found = self.rows([(one.piece, one) for one in entries])
        return {**found, "content": chat_form(entries, self._vocab)}

    def rows(self, rows: Sequence[tuple[bytes, TokenLogprob | None]]) -> dict[str, Any]:
        """Return tokens with their entries; None is a token that follows nothing."""
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece, one in rows:
            found["tokens"].append(piece.decode("utf-8", "replace"))
            found["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(piece))
            found["token_logprobs"].append(None if one is None else number(one.logprob))
            top: dict[str, float] | None = None
            if one is not None:
                top = {}
                for token, value in one.top:  # the likeliest first: it keeps its text
                    top.setdefault(self._vocab.piece(token).decode("utf-8", "replace"), number(value))
            found["top_logprobs"].append(top)
        return found


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two parts in the legacy form as one."""
    keys = {*first, *second}
    return {key: [*first.get(key, []), *second.get(key, [])] for key in sorted(keys)}


__all__ = ["Aligner", "LegacyForm", "chat_form", "joined", "number"]
