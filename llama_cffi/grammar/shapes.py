"""The form that JSON Schemas are converted to, and that grammars are built from.

A schema is a union of shapes, each of one type, without conditions, references or conjunctions. What stands inside of
an array or an object is a *state*: a set of schemas that must all hold there, of which :class:`ShapeReader` finds the
shapes in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from llama_cffi.grammar.document import Document, Node
from llama_cffi.grammar.equality import json_key
from llama_cffi.grammar.numeric import Number
from llama_cffi.grammar.pattern import Pattern

State: TypeAlias = "frozenset[int]"
"""Schemas, by index, that must all hold. The empty state is any value."""


@dataclass(frozen=True)
class Values:
    """These values and no others; never empty. Two are equal as JSON is: 1 and 1.0 are one value, true is not 1."""

    values: tuple[Any, ...] = field(compare=False)
    keys: tuple[object, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(map(json_key, self.values)))


@dataclass(frozen=True)
class Simple:
    """Null, or any boolean."""

    type: str


@dataclass(frozen=True)
class Text:
    """Strings of ``low`` to ``high`` code points that match every pattern."""

    low: int
    high: int | None
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True)
class Array:
    """``low`` to ``high`` items, the first ones as ``prefix`` says; ``rest`` None allows no others."""

    prefix: tuple[State, ...]
    rest: State | None
    low: int
    high: int | None


@dataclass(frozen=True)
class Object:
    """Properties by name, then those whose names match a pattern, then all the others; None allows none of them.

    No name matches two patterns.
    """

    properties: dict[str, State] = field(hash=False)
    required: frozenset[str]
    absent: frozenset[str]
    patterns: tuple[tuple[Pattern, State | None], ...]
    rest: State | None
    low: int
    high: int | None
    complete: bool = False
    """Whether no pattern matches a name that is listed, or was."""

    @property
    def open(self) -> bool:
        """Whether there may be properties without a name here."""
        return self.rest is not None or any(state is not None for _, state in self.patterns)


Shape: TypeAlias = "Values | Simple | Number | Text | Array | Object"


class ShapeReader(Protocol):
    """What makes arrays and objects asks of the reader of the whole schema."""

    document: Document

    def shapes(self, state: State) -> tuple[Shape, ...]:
        """Return what a state leaves: the union of these."""

    def apart(self, state: State) -> bool:
        """Return whether schemas certainly have no value in common; False when that is not known."""

    def matches(self, node: Node, value: Any) -> bool:
        """Return whether a value satisfies a schema."""

    def pattern(self, node: Node, source: str, keyword: str) -> Pattern:
        """Return the texts of a regular expression that stands under a keyword."""


def state_of(nodes: Iterable[Node]) -> State | None:
    """Return the state in which all of these hold; None when one of them refuses everything."""
    found = [node for node in nodes if node.value is not True]
    return None if any(node.value is False for node in found) else frozenset(node.index for node in found)


def lowest(atoms: list[Node], keyword: str) -> int:
    """Return the bound of a count that the schemas leave from below."""
    return max((int(node.value[keyword]) for node in atoms if keyword in node.value), default=0)


def highest(atoms: list[Node], keyword: str) -> int | None:
    """Return the bound of a count that the schemas leave from above."""
    return min((int(node.value[keyword]) for node in atoms if keyword in node.value), default=None)


__all__ = [
    "Array", "Number", "Object", "Shape", "ShapeReader", "Simple", "State", "Text", "Values", "highest",
    "lowest", "state_of",
]  # fmt: skip
