"""Walking through JSON from a client level by level: its depth is bounded by a loop, and not by the stack."""

from __future__ import annotations

from typing import Any


def next_level(level: list[Any]) -> list[Any]:
    """Return the objects and arrays directly within those of a level."""
    return [
        inner
        for outer in level
        for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, (dict, list))
    ]


__all__ = ["next_level"]
