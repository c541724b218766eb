"""JSON inside of a reply: where a value ends, found while it arrives."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

from llama_cffi.reply.input_buffer import InputBuffer

_PLAIN = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r'[^"{}\[\]]*')
_SCALAR = re.compile(r'[^\s,:"{}\[\]<`]*')
_CLOSES = {"{": "}", "[": "]"}


def read_string(source: InputBuffer, show: Callable[[str], object]) -> Generator[None, None, bool]:
    """Read the string that begins here with its quotes; False when the reply ends inside of it."""
    show((yield from source.one_of('"')))
    while True:
        yield from source.run(_PLAIN, show)
        mark = yield from source.one_of('"', "\\")
        if not mark:
            return False
        show(mark)
        if mark == '"':
            return True
        escaped = yield from source.peek()
        if escaped:
            show((yield from source.one_of(escaped)))


def read_value(source: InputBuffer, show: Callable[[str], object]) -> Generator[None, None, bool]:
    """Read the value that begins here; False when its brackets do not fit, the reply ends, or there is none.

    Only brackets and strings are looked at: whether the text is JSON is known when it is complete.
    """
    first = yield from source.peek()
    if first == '"':
        return (yield from read_string(source, show))
    if first not in ("{", "["):
        yield from source.run(_SCALAR, show)
        return bool(first) and bool(_SCALAR.fullmatch(first))
    open_ones: list[str] = []
    while True:
        char = yield from source.peek()
        if char == '"':
            if not (yield from read_string(source, show)):
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
        yield from source.run(_BETWEEN, show)


__all__ = ["read_string", "read_value"]
