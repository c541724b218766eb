"""Methods of texts, lists and mappings that a chat template may call, each with what it costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import Any

from jinja2.exceptions import SecurityError

from llama_cffi.prompt.budget import ELEMENT, Budget

_Check = Callable[..., None]
_WORD = re.compile(r"\S+")


def _read(budget: Budget, text: str, *args: Any) -> None:
    budget.work(len(text) >> 7)


def _copy(budget: Budget, text: str, *args: Any) -> None:
    budget.make(len(text))


def _search(budget: Budget, text: str, part: Any = "", *args: Any) -> None:
    budget.search(text, part)


def _split(budget: Budget, text: str, separator: Any = None, *args: Any, **named: Any) -> None:
    separator = named.get("sep", separator)
    budget.make(len(text))
    budget.search(text, separator)
    if isinstance(separator, str) and separator:
        n = text.count(separator) + 1
    else:
        n = len(text) if len(text) < 4096 else sum(1 for _ in _WORD.finditer(text))
    budget.make(ELEMENT * n)


def _split_lines(budget: Budget, text: str, *args: Any, **named: Any) -> None:
    budget.make(len(text))
    n = len(text) if len(text) < 4096 else sum(text.count(end) for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
    budget.make(ELEMENT * n)


def _partition(budget: Budget, text: str, separator: Any = "", *args: Any) -> None:
    budget.search(text, separator)
    budget.make(len(text))


def check_replace(budget: Budget, text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    """Count what ``text.replace(old, new, count)`` makes."""
    if isinstance(old, str) and isinstance(new, str):
        budget.search(text, old)
        n = text.count(old)
        if isinstance(count, int) and count >= 0:
            n = min(n, count)
        budget.make(len(text) + n * len(new))


def _join(budget: Budget, separator: str, parts: Any = (), *args: Any) -> None:
    if isinstance(parts, Iterable):
        if not isinstance(parts, (list, tuple, str, dict)):
            raise SecurityError("the template joins an iterator with a method: use the join filter")
        budget.make(budget.measure(parts) + len(separator) * len(parts))


def _pad(budget: Budget, text: str, width: Any = 0, *args: Any) -> None:
    budget.number(width)
    budget.make(len(text) + (max(width, 0) if isinstance(width, int) else 0))


def _tabs(budget: Budget, text: str, tabsize: Any = 8, **named: Any) -> None:
    tabsize = named.get("tabsize", tabsize)
    budget.number(tabsize)
    budget.make(len(text) + text.count("\t") * (max(tabsize, 0) if isinstance(tabsize, int) else 0))


def _free(budget: Budget, value: Any, *args: Any, **named: Any) -> None:
    budget.work(1)


def _look_up(budget: Budget, value: Any, key: Any = None, *args: Any) -> None:
    budget.hash(key)


def _shallow(budget: Budget, value: Any, *args: Any) -> None:
    budget.make(ELEMENT * len(value))


def _deep(budget: Budget, value: Any, *args: Any) -> None:
    budget.work(budget.measure(value) + budget.measure(args) >> 7)


def _checks(**names: str) -> dict[str, _Check]:
    """The methods named, separated by blanks, with their check."""
    checks = {"read": _read, "copy": _copy, "search": _search, "split": _split, "partition": _partition, "pad": _pad}
    return {name: checks[check] for check, some in names.items() for name in some.split()}


_TEXT: dict[str, _Check] = {
    **_checks(
        read="startswith endswith isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable "
        "isspace istitle isupper",
        copy="capitalize casefold lower lstrip removeprefix removesuffix rstrip strip swapcase title upper",
        search="count find index rfind rindex",
        split="split rsplit",
        partition="partition rpartition",
        pad="center ljust rjust zfill",
    ),
    "splitlines": _split_lines,
    "replace": check_replace,
    "join": _join,
    "expandtabs": _tabs,
}
_MAPPING: dict[str, _Check] = {"get": _look_up, "copy": _shallow, **dict.fromkeys(("items", "keys", "values"), _free)}
_LIST: dict[str, _Check] = {"copy": _shallow, "count": _deep, "index": _deep}
_NUMBER: dict[str, _Check] = {"is_integer": _free}

_METHODS: tuple[tuple[type | tuple[type, ...], dict[str, _Check]], ...] = (
    (str, _TEXT),
    (dict, _MAPPING),
    ((list, tuple, range), _LIST),
    ((int, float), _NUMBER),
    ((bytes, bytearray, memoryview, complex, set, frozenset, type, GeneratorType, type(None)), {}),
)
_BY_TYPE: dict[type, dict[str, _Check]] = {str: _TEXT, dict: _MAPPING, list: _LIST, tuple: _LIST}


def check_method(budget: Budget, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Count what a method of a builtin type costs, and say whether the owner is of such a type.

    Raises :class:`SecurityError` for a method that is not allowed.
    """
    known = _BY_TYPE.get(type(owner))
    if known is None:
        known = next((methods for types, methods in _METHODS if isinstance(owner, types)), None)
        if known is None:
            return False
    check = known.get(name)
    if check is None:
        raise SecurityError(f"the method {name!r} of a {type(owner).__name__} is not allowed in a template")
    try:
        check(budget, owner, *args, **kwargs)
    except TypeError:
        raise SecurityError(f"the method {name!r} of a {type(owner).__name__} does not take these arguments") from None
    return True


__all__ = ["check_method", "check_replace"]
