"""JSON Schemas as grammars of notations that are nearly JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_cffi.errors import ToolError
from llama_cffi.reply.format import ToolSpec
from llama_cffi.reply.lark import Lark, either, literal
from llama_cffi.reply.notation import Notation
from llama_cffi.reply.properties import properties, resolve

_REMARKS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "format"}
_REMARKS |= {"$defs", "definitions", "$schema", "$id", "type"}
_KEYWORDS = {
    "string": {"enum", "const", "minLength", "maxLength"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set(),
    "null": set(),
}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
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
        if "$ref" in schema:
            return self._reference(tool, str(schema["$ref"]), schema)
        if "anyOf" in schema:
            self._check(tool, schema, {"anyOf"})
            return either(self._value(tool, one) for one in schema["anyOf"])
        types = schema.get("type", list(_SCALARS))
        if "type" not in schema and ("enum" in schema or "const" in schema):
            return either(self._constant(tool, value) for value in schema.get("enum", [schema.get("const")]))
        wanted = [types] if isinstance(types, str) else list(types)
        return either(self._typed(tool, schema, one, len(wanted) > 1) for one in wanted)

    def _reference(self, tool: ToolSpec, reference: str, schema: Mapping[str, Any]) -> str:
        self._check(tool, schema, {"$ref"})
        key = f"{tool.name} {reference}"
        if key not in self._of_reference:
            name = self._lark.reserve("definition")
            self._of_reference[key] = name
            self._lark.define(name, self._value(tool, resolve(tool, schema)))
        return self._of_reference[key]

    def _check(self, tool: ToolSpec, schema: Mapping[str, Any], known: set[str]) -> None:
        unknown = sorted(set(schema) - known - _REMARKS)
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
            return self._text(int(schema.get("minLength", 0)), schema.get("maxLength"))
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
            return self._lark.text(repr(value))
        if isinstance(value, (dict, list)):
            raise ToolError(f"this format cannot write {value!r}, a value of tool {tool.name!r}")
        written = json.dumps(value)
        return self._lark.text(next((word for word, is_ in self._notation.words.items() if is_ == written), written))

    def _text(self, low: int, high: int | None) -> str:
        lark = self._lark
        many = f"{{{low},{'' if high is None else int(high)}}}" if low or high is not None else "*"
        if not self._notation.plain:
            return lark.terminal_of(rf"/'([^'\\\x00-\x1f]|\\[\\'n]){many}'/")
        quote = self._notation.plain[0]
        if many == "*":
            return f"{lark.text(quote)} {lark.up_to(quote, 'ANY')}"
        body = lark.terminal_of(f"/(?s:.{many})/ & ~/(?s:.*){literal(quote)}(?s:.*)/")
        return f"{lark.text(quote)} {lark.up_to(quote, body)}"

    def _array(self, tool: ToolSpec, schema: Mapping[str, Any]) -> str:
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        item = self._lark.rule("item", self._value(tool, schema.get("items", {})))
        if high is not None and int(high) < max(low, 1):
            return '"[" "]"' if low == 0 and int(high) == 0 else self._impossible(tool)
        many = f"{{{max(low - 1, 0)},{'' if high is None else int(high) - 1}}}"
        items = f"{item} ({self._lark.text(self._notation.comma)} {item}){many}"
        return f'"[" {items} "]"' if low else f'"[" ({items})? "]"'

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
        ]
        return f'"{{" {self._members(rules)} "}}"'

    def _quoted_key(self, tool: ToolSpec, name: str, quote: str) -> str:
        self._key(tool, name, "")
        return self._lark.text(f"{quote}{name}{quote}:{' ' if quote else ''}")


__all__ = ["NotationSchema"]
