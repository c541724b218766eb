"""Readers of single values of a body: each returns the value as the package takes it, or raises what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi._util.shown import shown
from llama_cffi.server.problem import Problem, wrong

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter

LOW = -math.inf


@dataclass(frozen=True)
class Facts:
    """What a value is checked against."""

    n_ctx: int
    slots: int
    max_n: int
    adapters: tuple[LoraAdapter, ...] = ()
    """Those that a request may name, in the order of their ids."""
    lenient: bool = False
    """Whether wrong values are taken as llama-server takes them."""


Read = Callable[[str, Any, Facts], Any]
"""Takes the name of a field and its value; returns the value as the package takes it, or None for "not given"."""

_KINDS: dict[type, str] = {bool: "true or false", str: "a string", dict: "an object", list: "a list"}


def wrong_type(param: str, wanted: str, value: Any) -> Problem:
    """Return the problem of a value of another type."""
    return wrong(param, f"must be {wanted}, got {shown(value)}", code="invalid_type")


def typed(param: str, value: Any, kind: type) -> Any:
    """Return a value of a type."""
    if not isinstance(value, kind):
        raise wrong_type(param, _KINDS[kind], value)
    return value


def flag(param: str, value: Any, _: Facts) -> bool:
    """Return true or false."""
    found: bool = typed(param, value, bool)
    return found


def whole(param: str, value: Any, low: float = LOW, high: float = math.inf) -> int:
    """Return a whole number in a range."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        problem = wrong_type(param, "a whole number", value)
        problem.nearest = int(value) if isinstance(value, (bool, float)) and math.isfinite(value) else None
        raise problem
    _check_range(param, value, low, high)
    return value


def _check_range(param: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        problem = wrong(param, f"must be {_range(low, high)}, got {value}")
        problem.nearest = min(max(value, low), high)
        raise problem


def integer(low: float = LOW, high: float = math.inf) -> Read:
    """Return a reader of whole numbers in a range."""
    return lambda param, value, _: whole(param, value, low, high)


def number(low: float = LOW, high: float = math.inf) -> Read:
    """Return a reader of numbers in a range."""

    def read(param: str, value: Any, _: Facts) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            problem = wrong_type(param, "a number", value)
            problem.nearest = float(value) if isinstance(value, bool) else None
            raise problem
        _check_range(param, value, low, high)
        return float(value)

    return read


def _range(low: float, high: float) -> str:
    if low == LOW:
        return f"at most {high:g}"
    return f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"


def text(limit: int = 1 << 20) -> Read:
    """Return a reader of strings of at most this many bytes."""

    def read(param: str, value: Any, _: Facts) -> str:
        if len(typed(param, value, str).encode()) > limit:
            raise wrong(param, f"has more than {limit} bytes")
        found: str = value
        return found

    return read


def items(param: str, value: Any, limit: int) -> list[Any]:
    """Return a list of at most this many things."""
    found: list[Any] = typed(param, value, list)
    if len(found) > limit:
        raise wrong(param, f"has {len(found)} elements, more than {limit}")
    return found


def strings(limit: int, size: int, *, alone: bool = False) -> Read:
    """Return a reader of lists of strings; a single string is one, where it may stand ``alone``. Empty ones go."""

    def read(param: str, value: Any, facts: Facts) -> tuple[str, ...]:
        if alone and isinstance(value, str):
            value = [value]
        found = [text(size)(f"{param}[{i}]", one, facts) for i, one in enumerate(items(param, value, limit))]
        return tuple(one for one in found if one)

    return read


def token_ids(param: str, value: Any, limit: int) -> list[int]:
    """Return a list of token ids; the vocabulary is not looked at."""
    return [token_id(f"{param}[{i}]", one) for i, one in enumerate(items(param, value, limit))]


def token_id(param: str, value: Any) -> int:
    """Return a token id; the vocabulary is not looked at."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(param, "a token id", value)
    if not 0 <= value < 2**31:
        raise wrong(param, f"is not a token id: {value}")
    return value


def one_of(*words: str) -> Read:
    """Return a reader of one of some words."""

    def read(param: str, value: Any, _: Facts) -> str:
        if value not in words or not isinstance(value, str):
            raise wrong(param, f"must be one of {', '.join(words)}, got {shown(value)}")
        return value

    return read


__all__ = [
    "Facts",
    "Read",
    "flag",
    "integer",
    "items",
    "number",
    "one_of",
    "strings",
    "text",
    "token_id",
    "token_ids",
    "typed",
    "whole",
    "wrong_type",
]
