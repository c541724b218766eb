"""A whole schema in the form that every grammar is built from: its states, and the shapes that each allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.numeric import Number
from llama_cffi.grammar.shapes import Array, Object, Shape, ShapeReader, Simple, State, Text, Values

_MAX_STATES = 20_000

ANYTHING: tuple[Shape, ...] = (
    Simple("null"),
    Simple("boolean"),
    Number(integer=False),
    Text(0, None, ()),
    Array((), frozenset(), 0, None),
    Object({}, frozenset(), frozenset(), (), frozenset(), 0, None),
)
"""What the empty state leaves."""


@dataclass(frozen=True, eq=False)
class Form:
    """The shapes of every state that a schema comes to. It never changes, so that threads may share it.

    Each of the states has a finite value, and each of the shapes holds such states only.
    """

    root: State
    states: Mapping[State, tuple[Shape, ...]]

    def shapes(self, state: State) -> tuple[Shape, ...]:
        """Return what a state leaves: the union of these."""
        return self.states[state] if state else ANYTHING

    def reached(self, shapes: Iterable[Shape]) -> dict[State, tuple[Shape, ...]]:
        """Return the states inside of these shapes, however deep, without the empty one."""
        return _collect([state for shape in shapes for state in children(shape)], self.states.__getitem__)


class UnsatisfiableError(SchemaError):
    """No finite value satisfies the schema."""


def read_form(reader: ShapeReader, root: State) -> Form:
    """Return the form of a state with everything below it.

    Raises :class:`SchemaError` for what the engine could not enforce, and :class:`UnsatisfiableError` for a schema that
    no finite value satisfies.
    """
    states = _finite(_collect([root], reader.shapes))
    if not states.get(root):
        raise UnsatisfiableError("no value satisfies the schema")
    return Form(root, states)


def _collect(todo: list[State], shapes: Callable[[State], tuple[Shape, ...]]) -> dict[State, tuple[Shape, ...]]:
    """Return these states and those inside of them, with their shapes."""
    found: dict[State, tuple[Shape, ...]] = {}
    while todo:
        state = todo.pop()
        if not state or state in found:
            continue
        if len(found) >= _MAX_STATES:
            raise SchemaError(f"the schema is too large: it has more than {_MAX_STATES} different places")
        found[state] = shapes(state)
        for shape in found[state]:
            todo.extend(reversed(children(shape)))
    return found


def children(shape: Shape) -> list[State]:
    """Return the states directly inside of a shape."""
    if isinstance(shape, Array):
        return [*shape.prefix, *([] if shape.rest is None else [shape.rest])]
    if isinstance(shape, Object):
        regions = [state for _, state in shape.patterns] + [shape.rest]
        return [*shape.properties.values(), *(state for state in regions if state is not None)]
    return []


def _finite(states: dict[State, tuple[Shape, ...]]) -> dict[State, tuple[Shape, ...]]:
    """Leave out what has no finite value, for example an object that needs one of its own kind inside."""
    finite: set[State] = {frozenset()}
    growing = True
    while growing:
        growing = False
        for state, shapes in states.items():
            if state not in finite and any(_needs(shape) <= finite for shape in shapes):
                finite.add(state)
                growing = True
    return {
        state: tuple(kept for shape in shapes if (kept := _prune(shape, finite)) is not None)
        for state, shapes in states.items()
        if state in finite
    }


def _needs(shape: Shape) -> set[State]:
    """Return the states of which every value of the shape holds one."""
    if isinstance(shape, Array):
        return {
            *shape.prefix[: shape.low],
            *([shape.rest] if shape.rest is not None and shape.low > len(shape.prefix) else []),
        }
    if isinstance(shape, Object):
        return {shape.properties[name] for name in shape.required}
    return set()


def _prune(shape: Shape, finite: set[State]) -> Shape | None:
    """Return the shape without what cannot be; None when nothing is left."""
    if not _needs(shape) <= finite:
        return None
    if isinstance(shape, Array):
        rest = shape.rest if shape.rest in finite else None
        n = next((i for i, state in enumerate(shape.prefix) if state not in finite), len(shape.prefix))
        high = shape.high
        if n < len(shape.prefix) or rest is None:
            high = n if high is None else min(n, high)
        return replace(shape, prefix=shape.prefix[:n], rest=rest, high=high)
    if isinstance(shape, Object):
        properties = {name: state for name, state in shape.properties.items() if state in finite}
        absent = shape.absent | (shape.properties.keys() - properties.keys())
        patterns = tuple((pattern, state if state in finite else None) for pattern, state in shape.patterns)
        rest = shape.rest if shape.rest in finite else None
        left = replace(shape, properties=properties, absent=frozenset(absent), patterns=patterns, rest=rest)
        if left.open:
            return left
        # Counts beside open objects stand where every listed property is required.
        return None if left.low > len(properties) else replace(left, low=0, high=None)
    return shape


def types_of(shapes: Iterable[Shape]) -> frozenset[str]:
    """Return the types of JSON that the values of these shapes have; an integer is a number."""
    return frozenset(
        type_
        for shape in shapes
        for type_ in (map(_type_of, shape.values) if isinstance(shape, Values) else (_type_of_shape(shape),))
    )


def of_type(shapes: Iterable[Shape], type_: str) -> tuple[Shape, ...]:
    """Return what these shapes leave of the values of one type."""
    found: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, Values):
            values = tuple(value for value in shape.values if _type_of(value) == type_)
            found.extend([Values(values)] if values else [])
        elif _type_of_shape(shape) == type_:
            found.append(shape)
    return tuple(found)


def _type_of_shape(shape: Shape) -> str:
    if isinstance(shape, Simple):
        return shape.type
    if isinstance(shape, Number):
        return "number"
    return "string" if isinstance(shape, Text) else "array" if isinstance(shape, Array) else "object"


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    for type_, name in ((bool, "boolean"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, type_):
            return name
    return "number"


__all__ = ["ANYTHING", "Form", "UnsatisfiableError", "children", "of_type", "read_form", "types_of"]
