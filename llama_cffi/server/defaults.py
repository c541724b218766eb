"""What a request gets that does not say otherwise: fields with the values that the server was started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llama_cffi.server.values import Facts, Read


class ReadField(Protocol):
    """A field, and how its value is read."""

    @property
    def option(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def read(self) -> Read: ...


_CONSTRAINTS = frozenset({"grammar", "schema"})
"""Options of which a request has one: none of these is added to another one."""
_MERGED = frozenset({"chat_template_kwargs"})


def add_defaults(
    defaults: Mapping[str, Any],
    fields: Sequence[ReadField],
    facts: Facts,
    options: dict[str, Any],
    given: dict[str, str],
) -> None:
    """Add the values of fields that a request does not give, in place."""
    constrained = not _CONSTRAINTS.isdisjoint(options)
    for field in fields:
        name = next((name for name in field.names if name in defaults), None)
        if name is None or (constrained and field.option in _CONSTRAINTS):
            continue
        if field.option in options and field.option not in _MERGED:
            continue
        value = field.read(name, defaults[name], facts)
        if value is None:
            continue
        options[field.option] = {**value, **options.get(field.option, {})} if field.option in _MERGED else value
        given.setdefault(field.option, name)


__all__ = ["add_defaults"]
