"""Failures for want of memory: llama.h has a code for a few of them, and the others are known by llama.cpp's log."""

from __future__ import annotations

import re
from collections.abc import Iterable

_REASON = re.compile(r"alloc|out ?of ?(device|host)? ?memory|failed to reserve", re.IGNORECASE)
"""In the reason of every backend."""


def allocation_reason(lines: Iterable[str]) -> str | None:
    """Return the first line that says which allocation has failed, None if there is none."""
    return next((line.strip() for line in lines if _REASON.search(line)), None)


__all__ = ["allocation_reason"]
