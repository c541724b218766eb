"""Ranges of sampling parameters: what is outside raises before llama.cpp sees it. Needs no library."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi.errors import SamplerError

MAX_HISTORY = 2**24
"""Most accepted tokens that a sampler looks back at: llama.cpp takes the memory for all of them at once."""

MAX_BREAKER = 40
"""Most bytes of a DRY sequence breaker: llama.cpp cuts longer ones."""

FLT_MAX = 3.4028234663852886e38
"""The largest C float: a larger number would become infinite on its way into C."""

_FLT_MIN = 1.1754943508222875e-38
_INT_MAX = 2**31 - 1


def finite(name: str, value: float) -> float:
    """The value, when a C float holds it."""
    if not -FLT_MAX <= value <= FLT_MAX:
        raise SamplerError(f"{name} must be a finite number, got {value}")
    return value


def between(name: str, value: float, low: float, high: float) -> float:
    """The value, when it is from ``low`` to ``high``."""
    if not low <= value <= high:
        raise SamplerError(f"{name} must be between {low:g} and {high:g}, got {value}")
    return value


def probability(name: str, value: float) -> float:
    """The value, when it is from 0 to 1."""
    return between(name, value, 0, 1)


def not_negative(name: str, value: float) -> float:
    """The value, when it is a finite number of 0 or more."""
    if finite(name, value) < 0:
        raise SamplerError(f"{name} must not be negative, got {value}")
    return value


def positive(name: str, value: float) -> float:
    """The value, when it is a finite number above 0."""
    if finite(name, value) < _FLT_MIN:
        raise SamplerError(f"{name} must be above 0, got {value}")
    return value


def count(name: str, value: int, low: int = 0, high: int = _INT_MAX) -> int:
    """The value, when it is an int from ``low`` to ``high``."""
    if not isinstance(value, int) or not low <= value <= high:
        raise SamplerError(f"{name} must be an int from {low} to {high}, got {value!r}")
    return value


def breakers(texts: Sequence[str]) -> list[bytes]:
    """DRY sequence breakers as UTF-8, when llama.cpp takes them as they are."""
    if isinstance(texts, (str, bytes)):
        raise SamplerError(f"sequence breakers must be several strings, not one: {texts!r}")
    return [_breaker(text) for text in texts]


def _breaker(text: str) -> bytes:
    if not isinstance(text, str) or not text:
        raise SamplerError(f"a sequence breaker must be a non-empty string, got {text!r}")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise SamplerError(f"the sequence breaker {text!r} holds a lone surrogate at index {error.start}") from None
    if b"\0" in data or len(data) > MAX_BREAKER:
        raise SamplerError(f"a sequence breaker has at most {MAX_BREAKER} bytes and no NUL, got {text!r}")
    return data


__all__ = [
    "FLT_MAX",
    "MAX_BREAKER",
    "MAX_HISTORY",
    "between",
    "breakers",
    "count",
    "finite",
    "not_negative",
    "positive",
    "probability",
]
