"""JSON Schemas as grammars of notations that are nearly JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_cffi.errors import ToolError
from llama_cffi.grammar.keywords import ANNOTATIONS
from llama_cffi.reply.format import ToolSpec
from llama_cffi.reply.lark import Lark, either, literal
from llama_cffi.reply.notation import Notation
from llama_cffi.reply.properties import properties, resolve
from llama_cffi.reply.text_schema import Conjunction, TextRules, alternatives

_REMARKS = ANNOTATIONS | {"$defs", "definitions", "type"}
_KEYWORDS = {
    "string": {"enum", "const", "minLength", "maxLength", "pattern", "format"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set(),
    "null": set(),
}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_PLAIN_TEXT = r"/[^'\x22\\\x00-\x1f]*/"
"""Texts that may stand between quotes as they are."""

_SCALARS = ("string", "number", "boolean", "null")


class NotationSchema:
    """Writes rules for values. Raises :class:`ToolError` for keywords that it cannot keep to."""

    def __init__(self, lark: Lark, notation: Notation) -> None:
        self._lark = lark
        self._notation = notation
        self._of_reference: dict[str, str] = {}

    def arguments(self, tool: ToolSpec) -> str:
        """The expression of a tool's arguments, without brackets."""
        members = [
            (prop.required, f"{self._key(tool, prop.name, self._notation.assign)} {self._value(tool, prop.schema)}")
            for prop in properties(tool, alone=False)
        ]
        return self._members(members)

    def _members(self, members: list[tuple[bool, str]]) -> str:
        """Members in this order, those that are not required left out or not, with commas between them."""
        if not members:
            return ""
        comma = self._lark.text(self._notation.comma)
        rules = [(required, self._lark.rule("member", body)) for required, body in members]
        choices = []
        for i, (required, rule) in enumerate(rules):
            behind = (f"{comma} {other}" if needed else f"({comma} {other})?" for needed, other in rules[i + 1 :])
            choices.append(" ".join((rule, *behind)))
            if required:
                return self._lark.rule("members", either(choices))
        return f"({self._lark.rule('members', either(choices))})?"

    def _key(self, tool: ToolSpec, name: str, assign: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", name):
            raise ToolError(f"the parameter {name!r} of tool {tool.name!r} has a name that this format cannot write")
        return self._lark.text(name + assign)

    def _value(self, tool: ToolSpec, schema: Any) -> str:
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            raise ToolError(f"tool {tool.name!r} has a parameter that nothing satisfies")
        if "$ref" in schema and not set(schema) - {"$ref"} - _REMARKS:
            return self._reference(tool, str(schema["$ref"]), schema)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema and not set(schema) - {keyword} - _REMARKS:
                return either(self._value(tool, one) for one in schema[keyword])
        if set(schema) & {"$ref", "allOf", "anyOf", "oneOf"}:
            choices = alternatives(tool, schema, f"a parameter of tool {tool.name!r}")
            return either(self._value(tool, self._flat(tool, choice)) for choice in choices)
        types = schema.get("type", list(_SCALARS))
        if "type" not in schema and ("enum" in schema or "const" in schema):
            return either(self._constant(tool, value) for value in schema.get("enum", [schema.get("const")]))
        wanted = [types] if isinstance(types, str) else list(types)
        return either(self._typed(tool, schema, one, len(wanted) > 1) for one in wanted)

    def _flat(self, tool: ToolSpec, choice: Conjunction) -> dict[str, Any]:
        """One schema for all of these; they must not say different things under one keyword."""
        flat: dict[str, Any] = {}
        for schema in choice:
            for keyword, value in schema.items():
                if keyword not in ANNOTATIONS and flat.setdefault(keyword, value) != value:
                    raise ToolError(
                        f"the parameters of tool {tool.name!r} say {keyword!r} twice for one value, "
                        "which this format cannot keep to"
                    )
        return flat

    def _reference(self, tool: ToolSpec, reference: str, schema: Mapping[str, Any]) -> str:
        key = f"{tool.name} {reference}"
        if key not in self._of_reference:
            name = self._lark.reserve("definition")
            self._of_reference[key] = name
            self._lark.define(name, self._value(tool, resolve(tool, schema)))
        return self._of_reference[key]

    def _check(self, tool: ToolSpec, schema: Mapping[str, Any], known: set[str]) -> None:
        unknown = sorted(key for key in set(schema) - known - _REMARKS if not key.startswith("x-"))
        if unknown:
            raise ToolError(f"this format cannot keep to {unknown[0]!r} in the parameters of tool {tool.name!r}")

    def _typed(self, tool: ToolSpec, schema: Mapping[str, Any], type_: str, mixed: bool) -> str:
        everything = set().union(*_KEYWORDS.values()) | _NUMBERS if mixed else set()
        if type_ in ("number", "integer"):
            self._check(tool, schema, _NUMBERS | {"enum", "const"} | everything)
            kept = {key: value for key, value in schema.items() if key in _NUMBERS | {"enum", "const"}}
            return self._lark.json({"type": type_, **kept})
        if type_ not in _KEYWORDS:
            raise ToolError(f"the parameters of tool {tool.name!r} have the unknown type {type_!r}")
        self._check(tool, schema, _KEYWORDS[type_] | everything | {"enum", "const"})
        if "enum" in schema or "const" in schema:
            wanted = {"string": str, "boolean": bool, "null": type(None)}.get(type_)
            values = [value for value in schema.get("enum", [schema.get("const")]) if wanted and type(value) is wanted]
            if not values:
                raise ToolError(f"this format cannot write a value of an enum in the parameters of tool {tool.name!r}")
            return either(self._constant(tool, value) for value in values)
        if type_ == "string":
            return self._text(TextRules((schema,), f"a parameter of tool {tool.name!r}"))
        if type_ == "array":
            return self._array(tool, schema)
        if type_ == "object":
            return self._object(tool, schema)
        return either(self._constant(tool, value) for value in ((True, False) if type_ == "boolean" else (None,)))

    def _constant(self, tool: ToolSpec, value: Any) -> str:
        if isinstance(value, str):
            if self._notation.plain:
                quote = self._notation.plain[0]
                if quote in value:
                    raise ToolError(f"this format cannot write {value!r}, a value of tool {tool.name!r}")
                return self._lark.text(f"{quote}{value}{quote}")
            return either(map(self._lark.text, dict.fromkeys((repr(value), json.dumps(value, ensure_ascii=False)))))
        if isinstance(value, (dict, list)):
            raise ToolError(f"this format cannot write {value!r}, a value of tool {tool.name!r}")
        written = json.dumps(value)
        return self._lark.text(next((word for word, is_ in self._notation.words.items() if is_ == written), written))

    def _text(self, rules: TextRules) -> str:
        """A text in quotes."""
        lark = self._lark
        if self._notation.plain:
            quote = self._notation.plain[0]
            body = "ANY" if rules.free else rules.lengths_before(quote) or rules.body(quote)
            return f"{lark.text(quote)} {lark.up_to(quote, 'ANY' if body == 'ANY' else lark.terminal_of(str(body)))}"
        if rules.patterns:
            body = f"{rules.body(self._notation.escaped[0])} & {_PLAIN_TEXT}"
            return either(f'"{quote}" {lark.terminal_of(body)} "{quote}"' for quote in ("'", '\\"'))
        many = f"{{{rules.low},{'' if rules.high is None else rules.high}}}" if not rules.free else "*"
        # A line break is written as it is or as an escape.
        inside = r"\\\x00-\x08\x0b-\x1f]|\\[\\'\x22nrt])"
        return either(lark.terminal_of(rf"/{quote}([^{quote}{inside}{many}{quote}/") for quote in ("'", r"\x22"))

    def _array(self, tool: ToolSpec, schema: Mapping[str, Any]) -> str:
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        first = [self._lark.rule("item", self._value(tool, one)) for one in schema.get("prefixItems", ())]
        others = schema.get("items", {})
        if others is False:
            high = len(first) if high is None else min(int(high), len(first))
        if high is not None and int(high) < max(low, 1):
            return '"[" "]"' if low == 0 and int(high) == 0 else self._impossible(tool)
        comma = self._lark.text(self._notation.comma)
        if high is not None:
            first = first[: int(high)]
        behind = ""
        if others is not False and (high is None or int(high) > len(first)):
            item = self._lark.rule("item", self._value(tool, others))
            at_least = max(low - len(first), 0)
            most = None if high is None else int(high) - len(first)
            if first:
                behind = f"({comma} {item}){{{at_least},{'' if most is None else most}}}"
            else:
                many = f"{{{max(at_least - 1, 0)},{'' if most is None else most - 1}}}"
                items = f"{item} ({comma} {item}){many}"
                return f'"[" {items} "]"' if low else f'"[" ({items})? "]"'
        for i in range(len(first) - 1, -1, -1):
            one = f"{comma} {first[i]}" if i else first[i]
            behind = f"{one} {behind}".rstrip()
            if i >= low:
                behind = f"({behind})?"
        return f'"[" {behind} "]"'

    def _impossible(self, tool: ToolSpec) -> str:
        raise ToolError(f"tool {tool.name!r} has a parameter that nothing satisfies")

    def _object(self, tool: ToolSpec, schema: Mapping[str, Any]) -> str:
        members: Mapping[str, Any] = schema.get("properties", {})
        required = schema.get("required", [])
        if any(name not in members for name in required):
            raise ToolError(
                f"an object in the parameters of tool {tool.name!r} requires what is none of its properties"
            )
        quote = "" if self._notation.plain else "'"
        rules = [
            (name in required, f"{self._quoted_key(tool, name, quote)} {self._value(tool, one)}")
            for name, one in members.items()
            if one is not False
        ]
        # An object that lists its members takes no others, unless it says so.
        others = schema.get("additionalProperties", not members)
        listed = self._members(rules)
        if others is False:
            return f'"{{" {listed} "}}"'
        other = self._lark.rule("other", f"{self._other_key(list(members))} {self._value(tool, others)}")
        comma = self._lark.text(self._notation.comma)
        more = f"({comma} {other})*"
        if not rules:
            return f'"{{" ({other} {more})? "}}"'
        if required:
            return f'"{{" {listed} {more} "}}"'
        return f'"{{" ({listed[:-1]} {more} | {other} {more})? "}}"'

    def _other_key(self, names: list[str]) -> str:
        """A key that is none of these."""
        lark = self._lark
        body = r"/[A-Za-z_][A-Za-z0-9_.\-]*/"
        if names:
            body += f" & ~/({'|'.join(map(literal, names))})/"
        key = lark.terminal_of(body)
        if self._notation.plain:
            return f'{key} ":"'
        return either(f'"{quote}" {key} "{quote}: "' for quote in ("'", '\\"'))

    def _quoted_key(self, tool: ToolSpec, name: str, quote: str) -> str:
        self._key(tool, name, "")
        quotes = (quote, '"') if quote else ("",)
        return either(self._lark.text(f"{one}{name}{one}:{' ' if one else ''}") for one in quotes)


__all__ = ["NotationSchema"]
