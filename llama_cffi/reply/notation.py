"""Values in notations that are nearly JSON, read as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from llama_cffi.reply.event_buffer import loads
from llama_cffi.reply.input_buffer import InputBuffer

Show = Callable[[str], object]

_WORD = re.compile(r"[\w.+\-]*")
_KEY = re.compile(r"[^\s:={}\[\](),'\"<>]*")
_HEX = re.compile(r"[0-9A-Fa-f]")
_ESCAPES = {**dict(zip("nrtbf", "\n\r\t\b\f", strict=True)), **{char: char for char in "\\'\"/"}}
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Notation:
    """How texts, keys and words look. ``escaped`` quotes know backslashes, ``plain`` ones do not."""

    escaped: tuple[str, ...]
    plain: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    assign: str = ":"
    comma: str = ","
    bare_words: bool = False
    """Whether a word that is nothing else is a text."""

    @property
    def quotes(self) -> tuple[str, ...]:
        """Everything that a text may be written in."""
        return (*self.plain, *self.escaped)

    def read(self, source: InputBuffer, show: Show, depth: int = 0) -> Generator[None, None, bool]:
        """Read the value that begins here and show it as JSON; False when it breaks off."""
        yield from source.blank()
        quote = yield from source.one_of(*self.quotes)
        if quote:
            return (yield from self._text(source, show, quote))
        bracket = yield from source.one_of("{", "[", "(")
        if bracket:
            if depth >= _MAX_DEPTH:
                return False
            close = {"{": "}", "[": "]", "(": ")"}[bracket]
            show("{" if bracket == "{" else "[")
            keyed = ":" if bracket == "{" else ""
            if not (yield from self.members(source, show, close, keyed, depth + 1)):
                return False
            show("}" if bracket == "{" else "]")
            return True
        word = yield from source.run(_WORD)
        word = self.words.get(word, word)
        if not word or (loads(word) is None and word != "null"):
            if not word or not self.bare_words:
                return False
            word = json.dumps(word, ensure_ascii=False)
        show(word)
        return True

    def members(
        self, source: InputBuffer, show: Show, close: str, assign: str, depth: int = 0
    ) -> Generator[None, None, bool]:
        """Read values up to ``close``, with it; each behind a key and ``assign``, unless that is ""."""
        separator = ""
        while True:
            yield from source.blank()
            if (yield from source.one_of(close)):
                return True
            show(separator)
            if assign:
                quote = yield from source.one_of(*self.quotes)
                if quote:
                    if not (yield from self._text(source, show, quote)):
                        return False
                else:
                    key = yield from source.run(_KEY)
                    if not key:
                        return False
                    show(json.dumps(key, ensure_ascii=False))
                yield from source.blank()
                if not (yield from source.one_of(assign)):
                    return False
                show(": ")
            if not (yield from self.read(source, show, depth)):
                return False
            yield from source.blank()
            separator = ", "
            if not (yield from source.one_of(",")):
                return bool((yield from source.one_of(close)))

    def _text(self, source: InputBuffer, show: Show, quote: str) -> Generator[None, None, bool]:
        show('"')
        ends = (quote,) if quote in self.plain else (quote, "\\")
        while True:
            found = yield from source.until(ends, lambda piece: show(_escaped(piece)))
            if found != "\\":
                show('"' if found else "")
                return bool(found)
            yield from self._escape(source, show)

    def _escape(self, source: InputBuffer, show: Show) -> Generator[None, None, None]:
        char = yield from source.peek()
        if not char:
            return
        yield from source.one_of(char)
        if char in _ESCAPES:
            show(_escaped(_ESCAPES[char]))
        elif char in "ux":
            digits = ""
            for _ in range(4 if char == "u" else 2):
                if _HEX.match((yield from source.peek())):
                    digits += yield from source.one_of((yield from source.peek()))
            if len(digits) == (4 if char == "u" else 2):
                show(f"\\u{digits.zfill(4)}")
            else:
                show(_escaped(f"\\{char}{digits}"))
        else:
            show(_escaped(f"\\{char}"))


PYTHON = Notation(escaped=("'", '"'), words={"True": "true", "False": "false", "None": "null"}, assign="=", comma=", ")
"""Values and keyword arguments as Python writes them."""


def python_as_json(text: str) -> str | None:
    """Return the JSON of a text that is a Python literal; None when it is none."""
    source = InputBuffer()
    source.push(text.strip())
    source.ended = True
    pieces: list[str] = []
    reading = PYTHON.read(source, pieces.append)
    try:
        while True:
            next(reading)
    except StopIteration as done:
        whole = done.value and source.pos == len(source.text)
    return "".join(pieces) if whole else None


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


__all__ = ["PYTHON", "Notation", "python_as_json"]
