"""Equality of JSON values: numbers by value, true is not 1."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

from llama_cffi.errors import SchemaError


def exact(value: float) -> Fraction:
    """Return a number of a JSON text, exactly as it is written."""
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(value)))


def is_number(value: Any) -> bool:
    """Return whether a value is a number of JSON, which a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def json_key(value: Any) -> object:
    """Return a hashable key of a JSON value: two values are equal where their keys are."""
    if value is None or isinstance(value, (bool, str)):
        return type(value).__name__, value
    if isinstance(value, (int, float)):
        return "number", exact(value)
    if isinstance(value, list):
        return "array", tuple(map(json_key, value))
    if isinstance(value, dict):
        return "object", frozenset((name, json_key(inner)) for name, inner in value.items())
    raise SchemaError(f"{value!r} is not a JSON value")


def equal(a: Any, b: Any) -> bool:
    """Return whether two JSON values are the same."""
    return json_key(a) == json_key(b)


__all__ = ["equal", "exact", "is_number", "json_key"]
