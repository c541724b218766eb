"""Options in the form of the loaded libllama: other releases have other names for some, or lack them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from llama_cffi._native import binding, ffi, lib
from llama_cffi._native.bindings import missing
from llama_cffi._util.shown import shown
from llama_cffi.errors import UnsupportedError

T = TypeVar("T")


def choice(option: str, value: str, table: Mapping[str, T]) -> T:
    """Return what a word stands for in a table; ``ValueError`` names the words that are there."""
    try:
        return table[value]
    except (KeyError, TypeError):
        raise ValueError(f"{option} must be one of {', '.join(map(repr, table))}, got {shown(value)}") from None


def constant(option: str, value: str, table: Mapping[str, str]) -> int:
    """Return the value of the enumerator that a word stands for.

    ``ValueError`` for another word, :class:`UnsupportedError` when the library lacks the enumerator.
    """
    name = choice(option, value, table)
    if not binding.has(name):
        raise missing(name, f"{option}={value!r}")
    return int(getattr(lib, name))


def set_field(params: Any, name: str, value: Any, *, option: str, lacking: Any) -> None:
    """Set a field of a struct.

    A library without the field behaves as with ``lacking``; :class:`UnsupportedError` for another value.
    """
    field = f"{ffi.typeof(params).cname.removeprefix('struct ')}.{name}"
    if binding.has(field):
        setattr(params, name, value)
    elif value != lacking:
        raise missing(field, option)


def named_call(function: str, /, **arguments: Any) -> tuple[Any, ...]:
    """Return a function of the library and its arguments, given by their names in llama.h, in the order of the call.

    Arguments that the library's function does not take are left out. :class:`UnsupportedError` when it takes one that
    is not given.
    """
    names = binding.parameters(function)
    if unknown := [name for name in names if name not in arguments]:
        raise UnsupportedError(f"{function} of this libllama takes {', '.join(unknown)} as well")
    return getattr(lib, function), *(arguments[name] for name in names)


__all__ = ["choice", "constant", "named_call", "set_field"]
