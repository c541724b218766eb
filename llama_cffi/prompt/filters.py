"""Filters and tests that a chat template may use, each with a bound on what it computes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import Environment, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as _JINJA_FILTERS
from jinja2.filters import make_attrgetter
from jinja2.tests import TESTS as _JINJA_TESTS

from llama_cffi.prompt.budget import ELEMENT, Budget, current
from llama_cffi.prompt.formatting import check_percent
from llama_cffi.prompt.methods import check_replace

_DEFAULT_FILTERS: dict[str, Callable[..., Any]] = dict(_JINJA_FILTERS)
_DEFAULT_TESTS: dict[str, Callable[..., Any]] = dict(_JINJA_TESTS)  # type: ignore[arg-type]

_SMALL = 100_000
"""Characters that filters may be given whose time grows faster than their input."""


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Iterable[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it into prompts: no HTML escapes, and letters stay letters."""
    budget = current()
    size = budget.measure(value)
    if ensure_ascii:
        size *= 6
    if indent is not None:
        budget.number(indent)
        width = len(indent) if isinstance(indent, str) else indent
        # An element takes eight in the measure of a value.
        size += (size >> 3) * budget.depth(value) * max(int(width), 0)
    pair = None if separators is None else tuple(separators)
    if pair is not None:
        size += (size >> 3) * sum(len(one) for one in pair)
    budget.make(size)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)  # type: ignore[arg-type]
    if ensure_ascii and budget.marks:
        # An odd number of backslashes begins an escape.
        for mark in budget.marks:
            text = re.sub(rf"(?<!\\)((?:\\\\)*)\\u{ord(mark):04x}", rf"\1{mark}", text)
    return text


# -- filters that are done here, because the original cannot be bounded from outside


@pass_environment
def _join(environment: Environment, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    budget = current()
    separator = budget.text(d)
    parts: Iterable[Any] = value
    if attribute is not None:
        parts = map(make_attrgetter(environment, attribute), value)
    texts = []
    for part in parts:
        text = budget.text(part)
        budget.make(len(text) + len(separator) + 8)
        texts.append(text)
    return separator.join(texts)


@pass_environment
def _sum(environment: Any, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    values = iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)
    if isinstance(start, (str, bytes)):
        raise TypeError("sum() can't sum strings")
    for value in current().each(values):
        start = environment.call_binop(None, "+", start, value)
    return start


@pass_environment
def _attr(environment: Any, value: Any, name: Any) -> Any:
    found = getattr(value, str(name), environment)
    # What has no such attribute may have such a key, which is not asked for.
    return (
        environment.undefined(obj=value, name=name) if found is environment else environment.getattr(value, str(name))
    )


def _safe(value: Any) -> str:
    # A prompt is not HTML: nothing is escaped, so there is nothing to mark as escaped already.
    return str(current().text(value))


def _list(value: Any) -> list[Any]:
    return current().elements(value)


def _reverse(value: Any) -> Any:
    budget = current()
    if isinstance(value, str):
        budget.make(len(value))
        return value[::-1]
    return reversed(value) if hasattr(value, "__reversed__") else reversed(budget.elements(value))


def _int(value: Any, default: int = 0, base: int = 10) -> Any:
    if isinstance(value, str):
        _limit(value, 1000)
    return current().integer(_DEFAULT_FILTERS["int"](value, default, base))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    budget = current()
    text, old, new = (str(budget.text(one)) for one in (value, old, new))
    check_replace(budget, text, old, new, -1 if count is None else count)
    return text.replace(old, new, -1 if count is None else count)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    budget = current()
    if args and kwargs:
        raise TypeError("can't handle positional and keyword arguments at the same time")
    pattern = budget.text(value)
    check_percent(budget, pattern, kwargs or args)
    return pattern % (kwargs or args)


# -- bounds for the others


def _limit(text: str, size: int = _SMALL) -> None:
    if len(text) > size:
        raise SecurityError(f"the template gives a text of {len(text)} characters to a filter that takes {size}")


def _arguments(budget: Budget, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Check the arguments after the first, and return how much they could add to each line of a text."""
    width = 0
    for one in (*args, *kwargs.values()):
        budget.number(one)
        if isinstance(one, (int, str)):
            width += len(one) if isinstance(one, str) else abs(one)
    return width


def _on_text(name: str, growth: int = 1, limit: int = 0) -> Callable[..., Any]:
    """Return the filter of this name for a first argument that it takes as text."""

    def check(budget: Budget, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        text = budget.text(value)
        if limit:
            _limit(text, limit)
        width = _arguments(budget, args, kwargs)
        budget.make(growth * len(text) + (width * (text.count("\n") + 1) if width else 0))
        return text

    return _checked(_DEFAULT_FILTERS[name], check)


def _on_elements(name: str, limit: int = 0) -> Callable[..., Any]:
    """Return the filter of this name for elements that are compared or written."""

    def check(budget: Budget, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _arguments(budget, args, kwargs)
        if not isinstance(value, (str, dict)):
            value = budget.elements(value)
        size = budget.measure(value) + budget.measure(args)
        if limit and size > limit:
            raise SecurityError(f"the template gives a value of {size} characters to a filter that takes {limit}")
        # Compared are copies in lower case, log n times.
        budget.make(size)
        budget.work(size >> 3)
        return value

    return _checked(_DEFAULT_FILTERS[name], check)


def _on_each(name: str) -> Callable[..., Any]:
    """Return the filter of this name, which looks at one element after the other when they are asked for."""

    def check(budget: Budget, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return budget.each(value) if value else value

    return _checked(_DEFAULT_FILTERS[name], check)


def _in_groups(name: str) -> Callable[..., Any]:
    def check(budget: Budget, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for one in (*args, *kwargs.values()):
            if isinstance(one, int):
                budget.number(one)
                budget.make(ELEMENT * max(one, 0))
        return budget.elements(value)

    return _checked(_DEFAULT_FILTERS[name], check)


def _with_numbers(name: str) -> Callable[..., Any]:
    def check(budget: Budget, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _arguments(budget, args, kwargs)
        if isinstance(value, str):
            _limit(value, 1000)
        return value

    return _checked(_DEFAULT_FILTERS[name], check)


def _checked(function: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function behind a check, which counts the work and gives the first argument."""
    # Jinja gives the environment or a context as the first argument to some.
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value = check(current(), args[skip], args[skip + 1 :], kwargs)
        return function(*args[:skip], value, *args[skip + 1 :], **kwargs)

    return checked


FILTERS: dict[str, Callable[..., Any]] = {
    # These look at one element, or do work for each that is asked for.
    **{
        name: _DEFAULT_FILTERS[name] for name in ("count", "d", "default", "first", "items", "last", "length", "random")
    },
    **{name: _on_text(name) for name in ("capitalize", "lower", "trim", "truncate", "upper", "center", "indent")},
    **{name: _on_text(name, growth=6) for name in ("e", "escape", "forceescape")},
    **{name: _on_text(name, growth=10, limit=_SMALL) for name in ("title", "wordcount", "wordwrap", "urlencode")},
    **{name: _on_text(name, growth=20, limit=10_000) for name in ("striptags", "urlize")},
    **{name: _on_elements(name) for name in ("dictsort", "groupby", "max", "min", "sort", "unique")},
    **{name: _on_elements(name, limit=_SMALL) for name in ("pprint", "xmlattr")},
    **{name: _on_each(name) for name in ("map", "reject", "rejectattr", "select", "selectattr")},
    **{name: _in_groups(name) for name in ("batch", "slice")},
    **{name: _with_numbers(name) for name in ("abs", "filesizeformat", "float", "round")},
    "attr": _attr,
    "format": _format,
    "int": _int,
    "join": _join,
    "list": _list,
    "replace": _replace,
    "reverse": _reverse,
    "safe": _safe,
    "string": lambda value: current().text(value),
    "sum": _sum,
    "tojson": to_json,
}
"""Filters by name."""


def _comparing(test: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    @wraps(test)
    def compared(left: Any, right: Any) -> Any:
        current().compare(left, right)
        return test(left, right)

    return compared


def contains(item: Any, container: Any) -> bool:
    """``item in container``, with the work counted."""
    budget = current()
    if isinstance(container, str):
        budget.search(container, item)
    elif isinstance(container, dict):
        budget.hash(item)
    elif isinstance(container, (list, tuple)):
        if len(container) > 32 or not isinstance(item, str):
            budget.work(budget.measure(container) + budget.measure(item) >> 7)
    elif not isinstance(container, range):
        container = budget.each(container)
    return item in container


def _is_case(test: Callable[[str], bool]) -> Callable[[Any], bool]:
    @wraps(test)
    def checked(value: Any) -> bool:
        text = current().text(value)
        current().work(len(text) >> 7)
        return test(text)

    return checked


_SIMPLE_TESTS = (
    "boolean callable defined divisibleby escaped even false filter float integer iterable mapping none number odd "
    "sameas sequence string test true undefined"
)
_COMPARISONS = "!= < <= == > >= eq equalto ge greaterthan gt le lessthan lt ne"

TESTS: dict[str, Callable[..., Any]] = {
    **{name: _DEFAULT_TESTS[name] for name in _SIMPLE_TESTS.split()},
    **{name: _comparing(_DEFAULT_TESTS[name]) for name in _COMPARISONS.split()},
    **{name: _is_case(_DEFAULT_TESTS[name]) for name in ("lower", "upper")},
    "in": contains,
}
"""Tests by name."""


__all__ = ["FILTERS", "TESTS", "contains", "to_json"]
