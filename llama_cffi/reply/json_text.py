"""JSON inside of a reply: where a value ends, found while it arrives."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

from llama_cffi.reply.input_buffer import InputBuffer

_PLAIN = re.compile(r'[^"\\]*')
_LINE = re.compile(r'[^"\\\n]*')
_BETWEEN = re.compile(r'[^"{}\[\]]*')
_UNTAGGED = re.compile(r'[^"{}\[\]<]*')
_SCALAR = re.compile(r'[^\s,:"{}\[\]<`]*')
_CLOSES = {"{": "}", "[": "]"}


def read_string(
    source: InputBuffer, show: Callable[[str], object], *, strict: bool = False
) -> Generator[None, None, bool]:
    """Read the string that begins here with its quotes; False when the reply ends inside of it.

    ``strict``: False also before a line break, which no string of JSON holds.
    """
    show((yield from source.one_of('"')))
    while True:
        yield from source.run(_LINE if strict else _PLAIN, show)
        mark = yield from source.one_of('"', "\\")
        if not mark:
            return False
        show(mark)
        if mark == '"':
            return True
        escaped = yield from source.peek()
        if escaped:
            show((yield from source.one_of(escaped)))


def read_value(
    source: InputBuffer, show: Callable[[str], object], *, strict: bool = False
) -> Generator[None, None, bool]:
    """Read the value that begins here; False when its brackets do not fit, the reply ends, or there is none.

    Only brackets and strings are looked at: whether the text is JSON is known when it is complete. ``strict``: False
    also before a tag outside of strings, and before a line break inside of one.
    """
    first = yield from source.peek()
    if first == '"':
        return (yield from read_string(source, show, strict=strict))
    if first not in ("{", "["):
        yield from source.run(_SCALAR, show)
        return bool(first) and bool(_SCALAR.fullmatch(first))
    open_ones: list[str] = []
    while True:
        char = yield from source.peek()
        if char == '"':
            if not (yield from read_string(source, show, strict=strict)):
                return False
        elif char in ("{", "["):
            open_ones.append(_CLOSES[char])
            show((yield from source.one_of(char)))
        else:
            if char != open_ones[-1]:
                return False
            open_ones.pop()
            show((yield from source.one_of(char)))
            if not open_ones:
                return True
        yield from source.run(_UNTAGGED if strict else _BETWEEN, show)


__all__ = ["read_string", "read_value"]
