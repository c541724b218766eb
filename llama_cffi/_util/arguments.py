"""Checks of arguments: each returns the value, or raises an error that names the argument. Needs no library."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llama_cffi._util.scalars import as_float, as_int, check_int
from llama_cffi._util.shown import shown

Check = Callable[[str, Any], Any]
"""Takes the name of an argument and its value, and returns the value as it is used."""


def check_str(name: str, value: Any) -> str:
    """Return a str, whose content is checked where it is used; TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    return value


def check_text(name: str, value: Any) -> str:
    """Return a text; TypeError for anything else, ``ValueError`` for one that is not valid Unicode."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds a lone surrogate at index {error.start}: it is not valid Unicode") from None
    return value


def check_flag(name: str, value: Any) -> bool:
    """Return a bool, also one of numpy's; TypeError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    return bool(value)


def check_mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """Return a mapping; TypeError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def check_sequence(name: str, value: Any, what: str) -> Sequence[Any]:
    """Return a sequence that is not a text and has one dimension; TypeError, which says of what it is, otherwise."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return tuple(value.tolist())
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of {what}, not {type(value).__name__}")
    return value


def check_texts_by_name(name: str, value: Any) -> Mapping[str, str]:
    """Return a mapping of texts to texts; TypeError and ``ValueError`` as :func:`check_text`."""
    for key, text in check_mapping(name, value).items():
        check_text(f"a key of {name}", key)
        check_text(f"{name}[{key!r}]", text)
    return dict(value)


def check_names(name: str, value: Any) -> dict[str, Any]:
    """Return a mapping with texts as keys; TypeError and ``ValueError`` as :func:`check_text`."""
    for key in check_mapping(name, value):
        check_text(f"a key of {name}", key)
    return dict(value)


def check_path(name: str, value: Any) -> Any:
    """Return a path as it is; TypeError for anything else, such as the number of an open file.

    ``ValueError`` for an empty one, and one that no file can have.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a str or os.PathLike, not {type(value).__name__}")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds a lone surrogate at index {error.start}") from None
    if not encoded or b"\0" in encoded:
        raise ValueError(f"{name} must not be empty or contain NUL, got {shown(path)}")
    return value


def check_callable(name: str, value: Any) -> Any:
    """Return what can be called; TypeError for anything else."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def whole_number(name: str, value: Any) -> int:
    """Return an integer as an ``int``, of any size; ``ValueError`` for anything else."""
    number = as_int(value)
    if number is None:
        raise ValueError(f"{name} must be an int, got {shown(value)}")
    return number


def positive_number(name: str, value: Any) -> float:
    """Return a number above 0 as a ``float``; ``ValueError`` for anything else."""
    number = as_float(value)
    if number is None or not number > 0:
        raise ValueError(f"{name} must be above 0, got {shown(value)}")
    return number


def optional_seconds(name: str, value: Any) -> float | None:
    """Return a number of seconds above 0 as a ``float``, and None as it is; ``ValueError`` for anything else."""
    seconds = as_float(value)
    if value is not None and (seconds is None or not seconds > 0):
        raise ValueError(f"{name} must be None or above 0, got {shown(value)}")
    return seconds


def count(name: str, value: Any) -> int:
    """Return an integer of 0 or more as an ``int``; ``ValueError`` for anything else."""
    return check_int(name, value, 0, sys.maxsize)


def one_of(*words: str | bool) -> Check:
    """Return a check for one of these values: ``ValueError`` names them."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, np.bool_):
            value = bool(value)
        if not isinstance(value, (str, bool)) or value not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {shown(value)}")
        return value

    return check


def instance_of(kind: type, description: str) -> Check:
    """Return a check for instances of a class: TypeError says what was expected."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {description}, not {type(value).__name__}")
        return value

    return check


__all__ = [
    "Check",
    "check_callable",
    "check_flag",
    "check_mapping",
    "check_names",
    "check_path",
    "check_sequence",
    "check_str",
    "check_text",
    "check_texts_by_name",
    "count",
    "instance_of",
    "one_of",
    "optional_seconds",
    "positive_number",
    "whole_number",
]
