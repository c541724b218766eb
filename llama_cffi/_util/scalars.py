"""Checks of numbers: Python's and numpy's are accepted, bools are refused. Needs no library."""

from __future__ import annotations

import math
from numbers import Integral, Real

from llama_cffi._util.shown import shown

INT_MAX = 2**31 - 1
"""The largest C int."""


def as_int(value: object) -> int | None:
    """Return an integer as an ``int``, and None for anything else: bools, floats, arrays."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def is_int(value: object, low: int, high: int = INT_MAX) -> bool:
    """Return whether a value is an integer from ``low`` to ``high``."""
    number = as_int(value)
    return number is not None and low <= number <= high


def as_float(value: object) -> float | None:
    """Return a number as a ``float``, infinite where none is large enough, and None for anything else."""
    if type(value) is float:
        return value
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def check_int(
    name: str, value: object, low: int = 0, high: int = INT_MAX, *, error: type[Exception] = ValueError
) -> int:
    """Return an integer from ``low`` to ``high`` as an ``int``; raise ``error`` for anything else."""
    number = as_int(value)
    if number is None or not low <= number <= high:
        raise error(f"{name} must be an int from {low} to {high}, got {shown(value)}")
    return number


def check_seq_id(seq_id: object, n_seq_max: int) -> int:
    """Return the id of a sequence as an ``int``; raise ``ValueError`` outside 0 to ``n_seq_max - 1``."""
    number = as_int(seq_id)
    if number is None or not 0 <= number < n_seq_max:
        raise ValueError(
            f"seq_id must be 0 to {n_seq_max - 1} in this Context (n_seq_max={n_seq_max}), got {shown(seq_id)}"
        )
    return number


__all__ = ["INT_MAX", "as_float", "as_int", "check_int", "check_seq_id", "is_int"]
