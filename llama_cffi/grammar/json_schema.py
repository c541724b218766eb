"""Rewrites a JSON Schema so that the engine enforces it exactly, or refuses it."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import lru_cache
from typing import Any

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.blame import with_place
from llama_cffi.grammar.document import Document
from llama_cffi.grammar.form import Form, read_form
from llama_cffi.grammar.numeric import Number
from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.reader import SchemaReader
from llama_cffi.grammar.shapes import Array, Object, Shape, Simple, State, Text, Values

WHITESPACE = r"[ ]|\n(?:[ ]{0,40}|\t{0,10})"
"""The whitespace that may stand between two tokens of JSON: one run of it, never before or after the whole.

One blank as ``json.dumps`` writes it, or a line break with an indentation. A model cannot repeat it, so that one that
is fond of blanks comes to the next token of JSON instead of spending its ``max_tokens`` on them.
"""


def compile_json_schema(schema: Any, *, draft: int = 0, strict: bool = False) -> str:
    """Return the engine's grammar, as JSON text, of a JSON Schema of draft 2020-12, 2019-09, 7 or 6.

    ``draft`` (2020, 2019, 7 or 6) is for schemas without ``$schema``; 0 takes 2020-12, and the forms of older drafts
    where 2020-12 has no meaning for them. Raises :class:`SchemaError` for what the engine would not enforce exactly,
    and :class:`UnsatisfiableError` for a schema that no finite value satisfies.
    """

    def compiled(one: Any) -> str:
        document = Document(one, draft=draft, strict=strict)
        form = read_form(SchemaReader(document), frozenset({document.root.index}))
        return json.dumps({"grammars": [{"name": "json_schema", "json_schema": _engine_schema(form, None)}]})

    try:
        return compiled(schema)
    except SchemaError as error:
        raise with_place(error, schema, compiled) from error.__cause__


@lru_cache(maxsize=256)
def json_expression(form: Form, shapes: tuple[Shape, ...] | None = None) -> str:
    """Return the expression, in llguidance's variant of Lark, of the JSON texts of a form, or of some shapes in it.

    Raises :class:`SchemaError` for names and values that the engine cannot write.
    """
    return f"%json {json.dumps(_engine_schema(form, shapes))}"


def _engine_schema(form: Form, shapes: tuple[Shape, ...] | None) -> dict[str, Any]:
    writer = _Writer(form)
    options: dict[str, Any] = {"whitespace_pattern": WHITESPACE}
    body = writer.build(shapes)
    if writer.plain_names:
        # A name spelled with \u escapes would slip past the patterns for other names.
        options["json_allowed_escapes"] = 'nrbtf\\"'
    return {**body, "x-guidance": options}


class _Writer:
    """Writes each state as one definition: a union of shapes, each of a single type and without siblings."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._names = {state: f"s{i}" for i, state in enumerate(form.states)}
        self.plain_names = False

    def build(self, shapes: tuple[Shape, ...] | None) -> dict[str, Any]:
        """Return the schema of the form's root, or of these shapes."""
        states = self._form.states if shapes is None else self._form.reached(shapes)
        definitions = {self._names[state]: self._union(inner) for state, inner in states.items()}
        root = self._names[self._form.root]
        if shapes is not None:
            root = "root"
            definitions = {root: self._union(shapes), **definitions}
        return {"$ref": f"#/$defs/{root}", "$defs": definitions}

    def _reference(self, state: State) -> Any:
        if not state:
            return True
        shapes = self._form.shapes(state)
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
        raise SchemaError(f"the value {value!r} has more digits than the engine supports")
    return int(value) if value == int(value) else value


__all__ = ["WHITESPACE", "compile_json_schema", "json_expression"]
