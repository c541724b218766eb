"""Ranges of sampling parameters: a value out of range raises an error before llama.cpp reads it. Needs no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set

from llama_cffi._util.scalars import INT_MAX, as_float, as_int, check_int
from llama_cffi._util.shown import shown
from llama_cffi.errors import SamplerError, TokenError

MAX_HISTORY = 2**24
"""Most accepted tokens that a sampler looks back at: llama.cpp takes the memory for all of them at once."""

MAX_BREAKER = 40
"""Most bytes of a DRY sequence breaker: llama.cpp cuts longer ones."""

FLT_MAX = 3.4028234663852886e38
"""The largest C float: a larger number would become infinite on its way into C."""

_FLT_MIN = 1.1754943508222875e-38


def finite(name: str, value: float) -> float:
    """Return the value as a float, when a C float holds it."""
    number = _number(name, value)
    if not -FLT_MAX <= number <= FLT_MAX:
        raise SamplerError(f"{name} must be a finite number, got {shown(value)}")
    return number


def between(name: str, value: float, low: float, high: float) -> float:
    """Return the value as a float, when it is from ``low`` to ``high``."""
    number = _number(name, value)
    if not low <= number <= high:
        raise SamplerError(f"{name} must be between {low:g} and {high:g}, got {shown(value)}")
    return number


def probability(name: str, value: float) -> float:
    """Return the value as a float, when it is from 0 to 1."""
    return between(name, value, 0, 1)


def not_negative(name: str, value: float) -> float:
    """Return the value as a float, when it is finite and 0 or more."""
    number = finite(name, value)
    if number < 0:
        raise SamplerError(f"{name} must not be negative, got {shown(value)}")
    return number


def positive(name: str, value: float) -> float:
    """Return the value as a float, when it is finite and above 0."""
    number = finite(name, value)
    if number < _FLT_MIN:
        raise SamplerError(f"{name} must be above 0, got {shown(value)}")
    return number


def integer(name: str, value: int) -> int:
    """Return the value as an int, when it is an integer of any size."""
    number = as_int(value)
    if number is None:
        raise SamplerError(f"{name} must be an int, got {shown(value)}")
    return number


def count(name: str, value: int, low: int = 0, high: int = INT_MAX) -> int:
    """Return the value as an int, when it is an integer from ``low`` to ``high``."""
    return check_int(name, value, low, high, error=SamplerError)


def bias(key: object, value: float) -> float:
    """Return the logit bias of a token or text as a float, when it is finite or -inf, which forbids the token."""
    number = as_float(value)
    if number is None or math.isnan(number) or number > FLT_MAX:
        raise SamplerError(f"logit_bias[{shown(key)}] must be a finite number or -inf, got {shown(value)}")
    return number if number >= -FLT_MAX else -math.inf


def token_bias(biases: Mapping[int, float]) -> dict[int, float]:
    """Return logit biases by token, as Python's numbers."""
    if not isinstance(biases, Mapping):
        raise SamplerError(f"logit_bias must map tokens to numbers, got {shown(biases)}")
    checked = {}
    for token, value in biases.items():
        number = as_int(token)
        if number is None:
            raise TokenError(f"logit_bias: a token must be an int, got {shown(token)}")
        checked[number] = bias(token, value)
    return checked


def bias_text(key: str) -> bytes:
    """Return a text of a logit bias as UTF-8, when it can be encoded."""
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise SamplerError(f"logit_bias: the text {key!r} holds a lone surrogate at index {error.start}") from None


def _number(name: str, value: float) -> float:
    number = as_float(value)
    if number is None:
        raise SamplerError(f"{name} must be a number, got {shown(value)}")
    return number


def breakers(texts: Sequence[str]) -> list[bytes]:
    """DRY sequence breakers as UTF-8, when llama.cpp takes them as they are."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, (Sequence, Set)):
        raise SamplerError(f"dry_sequence_breakers must be a list of strings, not {shown(texts)}")
    return [_breaker(text) for text in texts]


def _breaker(text: str) -> bytes:
    if not isinstance(text, str) or not text:
        raise SamplerError(f"dry_sequence_breakers: a sequence breaker must be a non-empty string, got {shown(text)}")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise SamplerError(f"the sequence breaker {text!r} holds a lone surrogate at index {error.start}") from None
    if b"\0" in data or len(data) > MAX_BREAKER:
        allowed = f"at most {MAX_BREAKER} bytes and no NUL"
        raise SamplerError(f"dry_sequence_breakers: a sequence breaker must have {allowed}, got {shown(text)}")
    return data


__all__ = [
    "FLT_MAX",
    "MAX_BREAKER",
    "MAX_HISTORY",
    "between",
    "bias",
    "bias_text",
    "breakers",
    "count",
    "finite",
    "integer",
    "not_negative",
    "positive",
    "probability",
    "token_bias",
]
