"""Checks of format strings: a few characters of them can ask for a text of any length."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError

from llama_cffi.prompt.budget import Budget

_WIDE = re.compile(r"[0-9]{5}")
_TOO_WIDE = "the template formats with a width that is too large or computed"


def check_percent(budget: Budget, pattern: str, values: Any) -> None:
    """Check ``pattern % values`` before it is computed. Raises :class:`SecurityError`."""
    fields = width = 0
    budget.work(len(pattern) >> 3)
    at = pattern.find("%")
    while at >= 0:
        end = _end_of_key(pattern, at + 1)
        spec = re.compile(r"[-+ #0]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?").match(pattern, end)
        for digits in spec.groups() if spec else ():
            if digits and (digits == "*" or len(digits) > 4):
                raise SecurityError(_TOO_WIDE)
            width += int(digits or 0)
        fields += 1
        at = pattern.find("%", max(spec.end() if spec else end, at + 1) + 1)
    budget.make(len(pattern) + width + fields * budget.measure(values))


def _end_of_key(pattern: str, at: int) -> int:
    """Return the index after ``(key)``, whose parentheses may be nested, or ``at`` where there is none."""
    if not pattern.startswith("(", at):
        return at
    depth = 0
    for i in range(at, len(pattern)):
        depth += (pattern[i] == "(") - (pattern[i] == ")")
        if not depth:
            return i + 1
    return len(pattern)


def check_braces(budget: Budget, pattern: str, values: Any) -> None:
    """Check ``pattern.format(...)`` before it is computed. Raises :class:`SecurityError`, ValueError as ``format``."""
    fields = 0
    budget.work(len(pattern) >> 3)
    for _, name, spec, _ in Formatter().parse(pattern):
        if name is not None:
            fields += 1
            if spec and ("{" in spec or _WIDE.search(spec)):
                raise SecurityError(_TOO_WIDE)
    budget.make(len(pattern) + fields * (10_000 if _has_width(pattern) else 0) + fields * budget.measure(values))


def _has_width(pattern: str) -> bool:
    return re.search(r"[0-9]{3}", pattern) is not None


__all__ = ["check_braces", "check_percent"]
