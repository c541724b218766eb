"""A JSON Schema rewritten so that the engine keeps to it exactly, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.document import Document
from llama_cffi.grammar.numeric import Number
from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.reader import SchemaReader
from llama_cffi.grammar.shapes import Array, Object, Shape, Simple, State, Text, Values

WHITESPACE = r"[ ]|\n(?:[ ]{0,20}|\t{0,10})"
"""The whitespace that may stand between two tokens of JSON: one run of it, never before or after the whole.

One blank as ``json.dumps`` writes it, or a line break with an indentation. A model cannot repeat it, so that one that
is fond of blanks comes to the next token of JSON instead of spending its ``max_tokens`` on them.
"""

_MAX_STATES = 20_000


def compile_json_schema(schema: Any, *, draft: int = 0, strict: bool = False) -> str:
    """The engine's grammar, as JSON text, of a JSON Schema of draft 2020-12, 2019-09, 7 or 6.

    ``draft`` (2020, 2019, 7 or 6) is for schemas without ``$schema``; 0 takes 2020-12, and the forms of older drafts
    where 2020-12 has no meaning for them. Raises :class:`SchemaError` for what the engine would not keep to exactly,
    and for a schema that no finite value satisfies.
    """
    canonical = _Canonical(SchemaReader(Document(schema, draft=draft, strict=strict)))
    options: dict[str, Any] = {"whitespace_pattern": WHITESPACE}
    body = canonical.build()
    if canonical.plain_names:
        # A name spelled with \u escapes would slip past the patterns for other names.
        options["json_allowed_escapes"] = 'nrbtf\\"'
    return json.dumps({"grammars": [{"name": "json_schema", "json_schema": {**body, "x-guidance": options}}]})


class _Canonical:
    """Writes each state as one definition: a union of shapes, each of a single type and without siblings."""

    def __init__(self, reader: SchemaReader) -> None:
        self._reader = reader
        self._root: State = frozenset({reader.document.root.index})
        self._states: dict[State, tuple[Shape, ...]] = {}
        self._names: dict[State, str] = {}
        self.plain_names = False

    def build(self) -> dict[str, Any]:
        self._collect()
        self._keep_satisfiable()
        if not self._states.get(self._root):
            raise SchemaError("no value satisfies the schema")
        self._names = {state: f"s{i}" for i, state in enumerate(self._states)}
        definitions = {self._names[state]: self._union(shapes) for state, shapes in self._states.items()}
        return {"$ref": f"#/$defs/{self._names[self._root]}", "$defs": definitions}

    def _collect(self) -> None:
        todo = [self._root]
        while todo:
            state = todo.pop()
            if not state or state in self._states:
                continue
            if len(self._states) >= _MAX_STATES:
                raise SchemaError(f"the schema is too large: it has more than {_MAX_STATES} different places")
            self._states[state] = self._reader.shapes(state)
            for shape in self._states[state]:
                todo.extend(reversed(_children(shape)))

    def _keep_satisfiable(self) -> None:
        """Drop what has no finite value, for example an object that needs one of its own kind inside."""
        finite: set[State] = {frozenset()}
        growing = True
        while growing:
            growing = False
            for state, shapes in self._states.items():
                if state not in finite and any(_needs(shape) <= finite for shape in shapes):
                    finite.add(state)
                    growing = True
        self._states = {
            state: tuple(kept for shape in shapes if (kept := _prune(shape, finite)) is not None)
            for state, shapes in self._states.items()
            if state in finite
        }

    def _reference(self, state: State) -> Any:
        if not state:
            return True
        shapes = self._states[state]
        if all(isinstance(shape, (Simple, Number, Text, Values)) for shape in shapes):
            # In place, the engine reads all of it as one token.
            return self._union(shapes)
        return {"$ref": f"#/$defs/{self._names[state]}"}

    def _union(self, shapes: tuple[Shape, ...]) -> dict[str, Any]:
        written = [self._write(shape) for shape in shapes]
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _write(self, shape: Shape) -> dict[str, Any]:
        if isinstance(shape, Values):
            return {"enum": [_value(value) for value in shape.values]}
        if isinstance(shape, Simple):
            return {"type": shape.type}
        if isinstance(shape, Number):
            return _number(shape)
        if isinstance(shape, Text):
            return _text(shape)
        return self._array(shape) if isinstance(shape, Array) else self._object(shape)

    def _array(self, shape: Array) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "array"}
        if shape.prefix:
            out["prefixItems"] = [self._reference(state) for state in shape.prefix]
        out["items"] = False if shape.rest is None else self._reference(shape.rest)
        if shape.low:
            out["minItems"] = shape.low
        if shape.high is not None:
            out["maxItems"] = shape.high
        return out

    def _object(self, shape: Object) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "object"}
        properties = {name: self._reference(state) for name, state in shape.properties.items()}
        names = shape.properties.keys() | shape.absent
        rest = False if shape.rest is None else self._reference(shape.rest)
        if shape.patterns:
            # The engine keeps names that it was told apart from the patterns.
            properties |= dict.fromkeys(sorted(shape.absent), False)
            if any(not name.isprintable() or "\x7f" in name for name in names):
                raise SchemaError("names of properties with control characters are not supported beside patterns")
            out["patternProperties"] = {
                pattern.source(): False if state is None else self._reference(state)
                for pattern, state in shape.patterns
            }
            self.plain_names = self.plain_names or rest is not False
        elif names and rest is not False:
            # As a pattern, because additionalProperties takes a name that is spelled with \u escapes for another one.
            out["patternProperties"] = {Pattern.none_of(frozenset(names)).source(): rest}
            rest = False
        if properties:
            out["properties"] = properties
        if shape.required:
            out["required"] = [name for name in shape.properties if name in shape.required]
        out["additionalProperties"] = rest
        if shape.low:
            out["minProperties"] = shape.low
        if shape.high is not None:
            out["maxProperties"] = shape.high
        return out


def _children(shape: Shape) -> list[State]:
    if isinstance(shape, Array):
        return [*shape.prefix, *([] if shape.rest is None else [shape.rest])]
    if isinstance(shape, Object):
        regions = [state for _, state in shape.patterns] + [shape.rest]
        return [*shape.properties.values(), *(state for state in regions if state is not None)]
    return []


def _needs(shape: Shape) -> set[State]:
    """The states of which every value of the shape holds one."""
    if isinstance(shape, Array):
        return {
            *shape.prefix[: shape.low],
            *([shape.rest] if shape.rest is not None and shape.low > len(shape.prefix) else []),
        }
    if isinstance(shape, Object):
        return {shape.properties[name] for name in shape.required}
    return set()


def _prune(shape: Shape, finite: set[State]) -> Shape | None:
    """The shape without what cannot be; None when nothing is left."""
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


def _number(shape: Number) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "integer" if shape.integer else "number"}
    if shape.low is not None:
        out["exclusiveMinimum" if shape.low_exclusive else "minimum"] = _plain(shape.low)
    if shape.high is not None:
        out["exclusiveMaximum" if shape.high_exclusive else "maximum"] = _plain(shape.high)
    if shape.multiple_of is not None:
        out["multipleOf"] = _plain(shape.multiple_of)
    return out


def _plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _text(shape: Text) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "string"}
    if shape.low:
        out["minLength"] = shape.low
    if shape.high is not None:
        out["maxLength"] = shape.high
    for i, pattern in enumerate(shape.patterns):
        if i == 0:
            out["pattern"] = pattern.source()
        else:
            out.setdefault("allOf", []).append({"type": "string", "pattern": pattern.source()})
    return out


def _value(value: Any) -> Any:
    """A value as the engine spells it: whole numbers without a fraction."""
    if isinstance(value, bool) or not isinstance(value, (int, float, list, dict)):
        return value
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {name: _value(item) for name, item in value.items()}
    if abs(value) > 2**53 or (value != int(value) and 10**15 % Fraction(repr(value)).denominator):
        raise SchemaError(f"the value {value!r} has more digits than the engine keeps to")
    return int(value) if value == int(value) else value


__all__ = ["WHITESPACE", "compile_json_schema"]
