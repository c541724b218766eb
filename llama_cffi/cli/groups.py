"""Options that several commands have in common, as one parameter of each command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints


def takes(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator of commands: a parameter that is annotated with one of the dataclasses stands for its fields.

    Typer sees the fields, in the place of the parameter; the command gets the dataclass.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        taken: dict[str, type] = {}
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if hints.get(name) in groups:
                taken[name] = hints[name]
                parameters += _fields_of(hints[name])
            else:
                parameters.append(parameter.replace(annotation=hints.get(name, parameter.annotation)))

        @functools.wraps(function)
        def run(*args: Any, **given: Any) -> None:
            for name, group in taken.items():
                names = [one.name for one in fields(group)]
                given[name] = group(**{one: given.pop(one) for one in names if one in given})
            function(*args, **given)

        del run.__wrapped__
        run.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _fields_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(one.name, kind, default=one.default, annotation=hints[one.name]) for one in fields(group)]


__all__ = ["takes"]
