"""Signatures that show the options a function takes as ``**options``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def takes_options(options: type) -> Callable[[F], F]:
    """Show the keys of a TypedDict as keyword arguments of the decorated function, for ``help`` and notebooks.

    The function declares them as ``**options: Unpack[...]``, which type checkers and editors understand.
    """

    def decorate(function: F) -> F:
        plain = inspect.signature(function)
        given = [one for one in plain.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {one.name for one in given}
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_text(annotation))
            for name, annotation in options.__annotations__.items()
            if name not in names
        ]
        function.__signature__ = plain.replace(parameters=[*given, *shown])  # type: ignore[attr-defined]
        return function

    return decorate


class _Verbatim:
    """An annotation that shows as the text that it was written as."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _text(annotation: Any) -> _Verbatim:
    return _Verbatim(getattr(annotation, "__forward_arg__", None) or str(annotation))


__all__ = ["takes_options"]
