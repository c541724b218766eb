"""The names of a C library that sources use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_PREFIX = re.compile(r"(?:llama|ggml|gguf|mtmd)_", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def used(names: Iterable[str], sources: Iterable[Path]) -> set[str]:
    """Return those of the names that some sources, in Python or C++, use.

    In Python a name is used when it is an attribute (``lib.NAME``) or a whole string (as calls through the guard have
    it), or fits a formatted string that begins like a name. In C++ it is a word outside comments. So a mention in a
    docstring, a comment or a longer text is not a use.
    """
    words: set[str] = set()
    patterns: set[str] = set()
    for path in sources:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".py":
            words.update(re.findall(r"\w+", _COMMENT.sub("", text)))
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                patterns.update(_pattern(node))
            else:
                words.update(_words(node))
    fits = [re.compile(pattern) for pattern in patterns]
    return {name for name in names if name in words or any(one.fullmatch(name) for one in fits)}


def _words(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        yield node.value.decode("latin-1")


def _pattern(node: ast.JoinedStr) -> Iterator[str]:
    """The expression that a formatted string stands for, if it begins like a name."""
    first = node.values[0] if node.values else None
    if isinstance(first, ast.Constant) and _PREFIX.match(str(first.value)):
        parts = (re.escape(str(one.value)) if isinstance(one, ast.Constant) else r"\w*" for one in node.values)
        yield "".join(parts)


__all__ = ["used"]
