"""A JSON Schema rewritten so that the engine keeps to it exactly, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.numeric import Number
from llama_cffi.grammar.object_parts import Array, Object, Part, Parts, Simple, State, Text, Values
from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.references import Document

WHITESPACE = r"[ ]|\n(?:[ ]{0,20}|\t{0,10})"
"""The whitespace that may stand between two tokens of JSON: one run of it, never before or after the whole.

One blank as ``json.dumps`` writes it, or a line break with an indentation. A model cannot repeat it, so that one that
is fond of blanks comes to the next token of JSON instead of spending its ``max_tokens`` on them.
"""

_MAX_STATES = 20_000


def compile_json_schema(schema: Any, *, draft: int = 0) -> str:
    """The engine's grammar, as JSON text, of a JSON Schema of draft 2020-12, 2019-09, 7 or 6.

    ``draft`` (2020, 2019, 7 or 6) is for schemas without ``$schema``; 0 takes 2020-12, and the forms of older drafts
    where 2020-12 has no meaning for them. Raises :class:`SchemaError` for what the engine would not keep to exactly,
    and for a schema that no finite value satisfies.
    """
    canonical = _Canonical(Parts(Document(schema, draft=draft)))
    options: dict[str, Any] = {"whitespace_pattern": WHITESPACE}
    body = canonical.build()
    if canonical.plain_names:
        # A name spelled with \u escapes would slip past the patterns for other names.
        options["json_allowed_escapes"] = 'nrbtf\\"'
    return json.dumps({"grammars": [{"name": "json_schema", "json_schema": {**body, "x-guidance": options}}]})


class _Canonical:
    """Writes each state as one definition: a union of parts, each of a single type and without siblings."""

    def __init__(self, parts: Parts) -> None:
        self._of = parts
        self._root: State = frozenset({parts.document.root.index})
        self._states: dict[State, tuple[Part, ...]] = {}
        self._names: dict[State, str] = {}
        self.plain_names = False

    def build(self) -> dict[str, Any]:
        self._collect()
        self._keep_satisfiable()
        if not self._states.get(self._root):
            raise SchemaError("no value satisfies the schema")
        self._names = {state: f"s{i}" for i, state in enumerate(self._states)}
        definitions = {self._names[state]: self._union(parts) for state, parts in self._states.items()}
        return {"$ref": f"#/$defs/{self._names[self._root]}", "$defs": definitions}

    def _collect(self) -> None:
        todo = [self._root]
        while todo:
            state = todo.pop()
            if not state or state in self._states:
                continue
            if len(self._states) >= _MAX_STATES:
                raise SchemaError(f"the schema is too large: it has more than {_MAX_STATES} different places")
            self._states[state] = self._of.of(state)
            for part in self._states[state]:
                todo.extend(reversed(_children(part)))

    def _keep_satisfiable(self) -> None:
        """Drop what has no finite value, for example an object that needs one of its own kind inside."""
        finite: set[State] = {frozenset()}
        growing = True
        while growing:
            growing = False
            for state, parts in self._states.items():
                if state not in finite and any(_needs(part) <= finite for part in parts):
                    finite.add(state)
                    growing = True
        self._states = {
            state: tuple(kept for part in parts if (kept := _prune(part, finite)) is not None)
            for state, parts in self._states.items()
            if state in finite
        }

    def _reference(self, state: State) -> Any:
        if not state:
            return True
        parts = self._states[state]
        if all(isinstance(part, (Simple, Number, Text, Values)) for part in parts):
            # In place, the engine reads all of it as one token.
            return self._union(parts)
        return {"$ref": f"#/$defs/{self._names[state]}"}

    def _union(self, parts: tuple[Part, ...]) -> dict[str, Any]:
        written = [self._write(part) for part in parts]
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _write(self, part: Part) -> dict[str, Any]:
        if isinstance(part, Values):
            return {"enum": [_value(value) for value in part.values]}
        if isinstance(part, Simple):
            return {"type": part.type}
        if isinstance(part, Number):
            return _number(part)
        if isinstance(part, Text):
            return _text(part)
        return self._array(part) if isinstance(part, Array) else self._object(part)

    def _array(self, part: Array) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "array"}
        if part.prefix:
            out["prefixItems"] = [self._reference(state) for state in part.prefix]
        out["items"] = False if part.rest is None else self._reference(part.rest)
        if part.low:
            out["minItems"] = part.low
        if part.high is not None:
            out["maxItems"] = part.high
        return out

    def _object(self, part: Object) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "object"}
        properties = {name: self._reference(state) for name, state in part.properties.items()}
        names = part.properties.keys() | part.absent
        rest = False if part.rest is None else self._reference(part.rest)
        if part.patterns:
            # The engine keeps names that it was told apart from the patterns.
            properties |= dict.fromkeys(sorted(part.absent), False)
            if any(not name.isprintable() or "\x7f" in name for name in names):
                raise SchemaError("names of properties with control characters are not supported beside patterns")
            out["patternProperties"] = {
                pattern.source(): False if state is None else self._reference(state) for pattern, state in part.patterns
            }
            self.plain_names = self.plain_names or rest is not False
        elif names and rest is not False:
            # As a pattern, because additionalProperties takes a name that is spelled with \u escapes for another one.
            out["patternProperties"] = {Pattern.none_of(frozenset(names)).source(): rest}
            rest = False
        if properties:
            out["properties"] = properties
        if part.required:
            out["required"] = [name for name in part.properties if name in part.required]
        out["additionalProperties"] = rest
        if part.low:
            out["minProperties"] = part.low
        if part.high is not None:
            out["maxProperties"] = part.high
        return out


def _children(part: Part) -> list[State]:
    if isinstance(part, Array):
        return [*part.prefix, *([] if part.rest is None else [part.rest])]
    if isinstance(part, Object):
        regions = [state for _, state in part.patterns] + [part.rest]
        return [*part.properties.values(), *(state for state in regions if state is not None)]
    return []


def _needs(part: Part) -> set[State]:
    """The states of which every value of the part holds one."""
    if isinstance(part, Array):
        return {
            *part.prefix[: part.low],
            *([part.rest] if part.rest is not None and part.low > len(part.prefix) else []),
        }
    if isinstance(part, Object):
        return {part.properties[name] for name in part.required}
    return set()


def _prune(part: Part, finite: set[State]) -> Part | None:
    """The part without what cannot be; None when nothing is left."""
    if not _needs(part) <= finite:
        return None
    if isinstance(part, Array):
        rest = part.rest if part.rest in finite else None
        n = next((i for i, state in enumerate(part.prefix) if state not in finite), len(part.prefix))
        high = part.high
        if n < len(part.prefix) or rest is None:
            high = n if high is None else min(n, high)
        return replace(part, prefix=part.prefix[:n], rest=rest, high=high)
    if isinstance(part, Object):
        properties = {name: state for name, state in part.properties.items() if state in finite}
        absent = part.absent | (part.properties.keys() - properties.keys())
        patterns = tuple((pattern, state if state in finite else None) for pattern, state in part.patterns)
        rest = part.rest if part.rest in finite else None
        return replace(part, properties=properties, absent=frozenset(absent), patterns=patterns, rest=rest)
    return part


def _number(part: Number) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "integer" if part.integer else "number"}
    if part.low is not None:
        out["exclusiveMinimum" if part.low_exclusive else "minimum"] = _plain(part.low)
    if part.high is not None:
        out["exclusiveMaximum" if part.high_exclusive else "maximum"] = _plain(part.high)
    if part.multiple_of is not None:
        out["multipleOf"] = _plain(part.multiple_of)
    return out


def _plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _text(part: Text) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "string"}
    if part.low:
        out["minLength"] = part.low
    if part.high is not None:
        out["maxLength"] = part.high
    for i, pattern in enumerate(part.patterns):
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
