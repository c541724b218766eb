"""Random schemas and instances near their borders, put to the constraint and to ``jsonschema``."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.document import Document
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.validation import Validator
from tests.support.byte_grammar import ByteGrammar

NAMES = ["a", "b", "ab", "abc", "c", "xa", ""]
PATTERNS = ["^a", "b$", "^[a-c]+$", "a", "^ab?$", "c|x", "^.{2}$", "^[^a]*$", "[0-9]"]
TEXTS = ["", "a", "b", "ab", "abc", "ba", "x", "0", "12", "é", 'a"', "a\\b", "2024-02-29", "aaaa"]
NUMBERS = [0, 1, 2, 3, -1, 7, 10, 0.5, 1.5, -0.5, 2.0, 0.25, 1.0, 100]


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """``multipleOf`` of decimals; jsonschema divides binary floats."""
    if validator.is_type(instance, "number") and Fraction(repr(instance)) % Fraction(repr(step)):
        yield ValidationError(f"{instance} is no multiple of {step}")


Judge = extend(Draft202012Validator, {"multipleOf": _multiple_of})  # type: ignore[no-untyped-call]


# -- schemas


class SchemaMaker:
    """Makes random schemas over the keywords that are kept to."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def schema(self, depth: int = 3) -> Any:
        rng = self.rng
        if rng.random() < 0.04:
            return rng.random() < 0.8
        out: dict[str, Any] = {}
        kinds = [self.number, self.text, self.values, self.array, self.object, self.object, self.applicators]
        if depth <= 0:
            kinds = kinds[:3]
        for kind in rng.choices(kinds, k=1 if rng.random() < 0.7 else 2):
            out |= kind(depth)
        if rng.random() < 0.15:
            out["type"] = rng.sample(
                ["null", "boolean", "integer", "number", "string", "array", "object"], rng.randint(1, 3)
            )
        return out

    def maybe(self, p: float, keyword: str, value: Callable[[], Any]) -> dict[str, Any]:
        return {keyword: value()} if self.rng.random() < p else {}

    def number(self, depth: int) -> dict[str, Any]:
        rng = self.rng
        out: dict[str, Any] = {"type": rng.choice(["integer", "number", "number"])}
        low = rng.choice(NUMBERS)
        out |= self.maybe(0.5, rng.choice(["minimum", "exclusiveMinimum"]), lambda: low)
        out |= self.maybe(
            0.5, rng.choice(["maximum", "exclusiveMaximum"]), lambda: low + rng.choice([0, 0.5, 1, 3, 20])
        )
        return out | self.maybe(0.2, "multipleOf", lambda: rng.choice([1, 2, 3, 0.5, 0.25]))

    def text(self, depth: int) -> dict[str, Any]:
        rng = self.rng
        out: dict[str, Any] = {"type": "string"} if rng.random() < 0.8 else {}
        out |= self.maybe(0.4, "minLength", lambda: rng.randint(0, 3))
        out |= self.maybe(0.4, "maxLength", lambda: rng.randint(0, 4))
        return out | self.maybe(0.4, "pattern", lambda: rng.choice(PATTERNS))

    def value(self, depth: int = 1) -> Any:
        rng = self.rng
        if depth and rng.random() < 0.2:
            return [self.value(0) for _ in range(rng.randint(0, 2))]
        if depth and rng.random() < 0.2:
            return {rng.choice(NAMES): self.value(0) for _ in range(rng.randint(0, 2))}
        return rng.choice([None, True, False, 0, 1, *NUMBERS, *TEXTS[:8]])

    def values(self, depth: int) -> dict[str, Any]:
        if self.rng.random() < 0.4:
            return {"const": self.value()}
        return {"enum": [self.value() for _ in range(self.rng.randint(1, 4))]}

    def array(self, depth: int) -> dict[str, Any]:
        rng = self.rng

        def inner() -> Any:
            return self.schema(depth - 1)

        out: dict[str, Any] = {"type": "array"} if rng.random() < 0.8 else {}
        out |= self.maybe(0.6, "items", inner)
        out |= self.maybe(0.3, "prefixItems", lambda: [inner() for _ in range(rng.randint(1, 2))])
        out |= self.maybe(0.3, "minItems", lambda: rng.randint(0, 2))
        out |= self.maybe(0.5, "maxItems", lambda: rng.randint(0, 3))
        if rng.random() < 0.2:
            out |= {"contains": inner()}
            out |= self.maybe(0.3, "minContains", lambda: rng.randint(0, 2))
            out |= self.maybe(0.3, "maxContains", lambda: rng.randint(0, 2))
        return out | self.maybe(0.15, "uniqueItems", lambda: True)

    def object(self, depth: int) -> dict[str, Any]:
        rng = self.rng

        def inner() -> Any:
            return self.schema(depth - 1) if rng.random() < 0.9 else False

        names = rng.sample(NAMES, 3)
        out: dict[str, Any] = {"type": "object"} if rng.random() < 0.8 else {}
        out |= self.maybe(0.7, "properties", lambda: {name: inner() for name in names[: rng.randint(1, 3)]})
        out |= self.maybe(0.4, "required", lambda: rng.sample(NAMES, rng.randint(1, 2)))
        out |= self.maybe(
            0.4, "patternProperties", lambda: {p: inner() for p in rng.sample(PATTERNS, rng.randint(1, 2))}
        )
        out |= self.maybe(0.5, "additionalProperties", lambda: False if rng.random() < 0.5 else inner())
        out |= self.maybe(0.25, "propertyNames", self.names)
        out |= self.maybe(0.2, "minProperties", lambda: rng.randint(0, 2))
        out |= self.maybe(0.2, "maxProperties", lambda: rng.randint(0, 3))
        out |= self.maybe(0.1, "dependentRequired", lambda: {rng.choice(NAMES): [rng.choice(NAMES)]})
        return out | self.maybe(0.1, "dependentSchemas", lambda: {rng.choice(NAMES): inner()})

    def names(self) -> Any:
        rng = self.rng
        return rng.choice(
            [
                {"pattern": rng.choice(PATTERNS)},
                {"maxLength": rng.randint(0, 3)},
                {"minLength": 1},
                {"enum": rng.sample(NAMES, 3)},
                {"pattern": rng.choice(PATTERNS), "minLength": 2},
                {"anyOf": [{"const": "abc"}, {"pattern": rng.choice(PATTERNS)}]},
                {"not": {"const": rng.choice(NAMES)}},
                {"not": {"pattern": rng.choice(PATTERNS)}},
                True,
            ]
        )

    def applicators(self, depth: int) -> dict[str, Any]:
        rng = self.rng

        def some() -> Any:
            return [self.schema(depth - 1) for _ in range(rng.randint(1, 3))]

        keyword = rng.choice(["allOf", "anyOf", "anyOf", "oneOf", "oneOf", "not", "if"])
        if keyword == "not":
            return {"not": self.schema(min(depth - 1, 1))}
        if keyword == "if":
            out = {"if": self.schema(min(depth - 1, 1))}
            return (
                out
                | self.maybe(0.8, "then", lambda: self.schema(depth - 1))
                | self.maybe(0.8, "else", lambda: self.schema(depth - 1))
            )
        return {keyword: some()}


# -- instances

_OF_OBJECTS = {"properties", "required", "patternProperties", "propertyNames", "minProperties"}


class InstanceMaker:
    """Makes instances that are valid, or nearly so."""

    def __init__(self, rng: random.Random, schema: Any) -> None:
        self.rng = rng
        self.root = schema
        self.pool: list[Any] = [None, True, False, *NUMBERS[:5], *TEXTS[:5], [], {}]
        self._collect(schema)

    def _collect(self, schema: Any) -> None:
        if isinstance(schema, dict):
            for keyword, value in schema.items():
                if keyword in ("const", "enum"):
                    self.pool.extend(value if keyword == "enum" else [value])
                elif keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                    self.pool.extend([value, value + 1, value - 1, value + 0.5, value - 0.25])
                else:
                    self._collect(value)
        elif isinstance(schema, list):
            for value in schema:
                self._collect(value)

    def instance(self) -> Any:
        value = self.sample(self.root, 3)
        for _ in range(self.rng.choice([0, 0, 1, 1, 2])):
            value = self.mutated(value)
        return value

    def sample(self, schema: Any, depth: int) -> Any:
        rng = self.rng
        if not isinstance(schema, dict) or depth < 0:
            return self.scalar()
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        choices = [inner for keyword in ("anyOf", "oneOf", "allOf") for inner in schema.get(keyword, ())]
        choices += [schema[keyword] for keyword in ("if", "then", "else", "not") if keyword in schema]
        if choices and rng.random() < 0.6:
            chosen = rng.choice(choices)
            if isinstance(chosen, dict):
                schema = {
                    key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "allOf")
                } | chosen
                return self.sample({**schema, "not": True}, depth - 1)
        types = schema.get("type") or [
            "object" if schema.keys() & _OF_OBJECTS
            else "array" if schema.keys() & {"items", "prefixItems", "contains", "minItems"}
            else rng.choice(["string", "number"])
        ]  # fmt: skip
        kind = types if isinstance(types, str) else rng.choice(types)
        if kind == "object":
            return self.object(schema, depth)
        if kind == "array":
            n = rng.randint(
                schema.get("minItems", 0), max(schema.get("minItems", 0), min(schema.get("maxItems", 3), 3))
            )
            prefix = schema.get("prefixItems", [])
            places = [prefix[i] if i < len(prefix) else schema.get("items", True) for i in range(n)]
            if "contains" in schema and places:
                places[rng.randrange(n)] = schema["contains"]
            return [self.sample(place, depth - 1) for place in places]
        if kind == "string":
            return self.text(schema)
        if kind in ("number", "integer"):
            return self.number(schema)
        return rng.choice([True, False]) if kind == "boolean" else None

    def object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        rng = self.rng
        listed, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        names = [name for name in listed if rng.random() < 0.6]
        names += [name for name in schema.get("required", ()) if rng.random() < 0.9]
        names += [rng.choice([*NAMES, "ax", "xb", "cc", "q"]) for _ in range(rng.choice([0, 0, 1, 2]))]
        out = {}
        for name in dict.fromkeys(names[:4]):
            place = listed.get(name, schema.get("additionalProperties", True))
            if name not in listed and patterns:
                place = rng.choice([place, *patterns.values()])
            out[name] = self.sample(place, depth - 1)
        return out

    def text(self, schema: dict[str, Any]) -> str:
        if self.rng.random() < 0.5:
            return self.rng.choice(TEXTS)
        return "".join(self.rng.choice("abcx0") for _ in range(self.rng.randint(schema.get("minLength", 0), 5)))

    def number(self, schema: dict[str, Any]) -> Any:
        edges = [schema[key] for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in schema]
        base = self.rng.choice(edges or NUMBERS)
        found = base + self.rng.choice([0, 0, 1, -1, 0.5, -0.25])
        return int(found) if found == int(found) and self.rng.random() < 0.8 else found

    def scalar(self) -> Any:
        return self.rng.choice(self.pool)

    def mutated(self, value: Any) -> Any:
        rng = self.rng
        if isinstance(value, bool) and rng.random() < 0.5:
            return int(value)
        if value in (0, 1) and not isinstance(value, bool) and rng.random() < 0.3:
            return bool(value)
        if isinstance(value, dict) and rng.random() < 0.85:
            value = dict(value)
            what = rng.randrange(4)
            if what == 0 and value:
                del value[rng.choice(list(value))]
            elif what == 1 and len(value) < 4:
                value[rng.choice([*NAMES, "ax", "xb", "q"])] = self.scalar()
            elif value:
                name = rng.choice(list(value))
                value[name] = self.mutated(value[name])
            return value
        if isinstance(value, list) and rng.random() < 0.85:
            value = list(value)
            what = rng.randrange(4)
            if what == 0 and value:
                del value[rng.randrange(len(value))]
            elif what == 1 and len(value) < 4:
                value.insert(
                    rng.randint(0, len(value)), rng.choice(value) if value and rng.random() < 0.5 else self.scalar()
                )
            elif value:
                i = rng.randrange(len(value))
                value[i] = self.mutated(value[i])
            return value
        if isinstance(value, str) and rng.random() < 0.6:
            i = rng.randint(0, len(value))
            return value[:i] + rng.choice(["", "a", "b", "x", "0"]) + value[i + rng.randint(0, 1) :]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.6:
            return value + rng.choice([1, -1, 0.5, -0.5, 0.25])
        return self.scalar()


# -- the comparison

_BREAKS = re.compile("\\\\[nru]|[\u2028\u2029]")
"""Line breaks: for ``.`` and ``$``, Python's regular expressions take others for one than ECMA-262's."""


@dataclass
class Findings:
    """What a search found: counts, and descriptions of what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def compare(seed: int, n_schemas: int, per_schema: int, walks: int = 2) -> Findings:
    """Put ``per_schema`` instances of each of ``n_schemas`` random schemas to the constraint and to jsonschema."""
    rng = random.Random(seed)
    found = Findings()
    for number in range(n_schemas):
        schema = SchemaMaker(rng).schema()
        try:
            text = compile_json_schema(schema)
        except SchemaError as error:
            empty = "no value satisfies" in str(error)
            found.counts["empty" if empty else "refused"] += 1
            found.refusals[error.keyword] += 1
            if not empty:
                continue
            text = ""
        judge, validator = Judge(schema), Validator(Document(schema))
        label = f"seed {seed}, schema {number}: {json.dumps(schema, ensure_ascii=False)}"
        try:
            grammar = ByteGrammar(text) if text else None
            maker = InstanceMaker(rng, schema)
            for _ in range(per_schema):
                value = maker.instance()
                _compare_one(found, judge, grammar, value, label)
                if validator.valid(value) != judge.is_valid(value):
                    found.wrong.append(f"{label}: the validator is wrong about {json.dumps(value)}")
            for _ in range(walks if grammar else 0):
                written = grammar.walk(rng) if grammar else None
                found.counts["walks" if written is not None else "walks cut"] += 1
                if written is None or _BREAKS.search(written):
                    continue
                if not judge.is_valid(json.loads(written)):
                    found.wrong.append(f"{label}: {written} was written, and is not valid")
        except AssertionError as error:
            found.wrong.append(f"{label}: {error}")
    return found


def _compare_one(found: Findings, judge: Any, grammar: ByteGrammar | None, value: Any, label: str) -> None:
    valid = judge.is_valid(value)
    found.counts["valid" if valid else "invalid"] += 1
    accepted = grammar is not None and grammar.accepts_some(value)
    if accepted is None:
        found.counts["undecided"] += 1
    elif accepted != valid:
        found.wrong.append(f"{label}: {json.dumps(value, ensure_ascii=False)} is {'valid' if valid else 'invalid'}")
