"""Descriptions of a function and its parameters in its docstring (Google, NumPy and Sphinx style)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

_GOOGLE = re.compile(r"(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments):\s*$")
_NUMPY = re.compile(r"(Parameters|Other Parameters)\s*$")
_SPHINX = re.compile(r":(?:param|parameter|arg|argument|keyword)\s+(?:[^:]*\s)?\**(\w+)\s*:\s*(.*)$")
_SECTION = re.compile(r"[A-Z][A-Za-z ]*:\s*$")
_UNDERLINE = re.compile(r"\s*-{3,}\s*$")
_GOOGLE_ITEM = re.compile(r"\**(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"(\**\w+(?:\s*,\s*\**\w+)*)\s*(?::.*)?$")


def summary_of(doc: str | None) -> str:
    """Return the text before the first section, its lines joined within paragraphs."""
    lines = []
    found = inspect.cleandoc(doc or "").split("\n")
    for i, line in enumerate(found):
        underlined = i + 1 < len(found) and _UNDERLINE.match(found[i + 1])
        if _SECTION.match(line) or underlined or line.startswith(":"):
            break
        lines.append(line.strip())
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def parameters_of(doc: str | None) -> dict[str, str]:
    """Return the description of each parameter that has one."""
    lines = inspect.cleandoc(doc or "").split("\n")
    found: dict[str, str] = {}
    for i, line in enumerate(lines):
        if _GOOGLE.match(line):
            found.update(_google(lines[i + 1 :]))
        elif _NUMPY.match(line) and i + 1 < len(lines) and _UNDERLINE.match(lines[i + 1]):
            found.update(_numpy(lines[i + 2 :]))
        elif sphinx := _SPHINX.match(line):
            found[sphinx[1]] = _joined(sphinx[2], _deeper(lines[i + 1 :], 0))
    return {name: text for name, text in found.items() if text}


def _google(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Items at one indentation, each with its further lines deeper."""
    indent = 0
    for i, line in enumerate(lines):
        depth = _depth(line)
        if not line.strip():
            continue
        if not depth:
            return
        indent = indent or depth
        item = _GOOGLE_ITEM.match(line.strip())
        if depth == indent and item:
            yield item[1], _joined(item[2], _deeper(lines[i + 1 :], indent))


def _numpy(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Items without indentation, their descriptions below them."""
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and _UNDERLINE.match(lines[i + 1]):
            return
        item = _NUMPY_ITEM.match(line)
        if item and not _depth(line):
            for name in item[1].split(","):
                yield name.strip().lstrip("*"), _joined("", _deeper(lines[i + 1 :], 0))


def _deeper(lines: list[str], indent: int) -> list[str]:
    """The lines before the first that is not indented further."""
    taken = []
    for line in lines:
        if line.strip() and _depth(line) <= indent:
            break
        taken.append(line)
    return taken


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _joined(first: str, rest: list[str]) -> str:
    return " ".join(" ".join((first, *rest)).split())


__all__ = ["parameters_of", "summary_of"]
