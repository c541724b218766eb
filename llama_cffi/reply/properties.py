"""The arguments of a tool one by one, for formats that write each as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi.errors import ToolError
from llama_cffi.reply.format import ToolSpec

Kind = Literal["text", "json", "either"]
"""How a value is written: a text as it is, anything else as JSON, or what the text looks like."""

_ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
_MAX_REFS = 50

# What says something about the object as a whole, and cannot be kept to when its members are written one by one.
_WHOLE = (
    *("allOf", "anyOf", "oneOf", "not", "if", "const", "enum", "minProperties", "maxProperties", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "patternProperties"),
)


@dataclass(frozen=True, slots=True)
class Property:
    """One argument: ``schema`` stands alone, with the definitions that it refers to; ``given`` is as it was written."""

    name: str
    schema: Mapping[str, Any]
    required: bool
    given: Any = True


def properties(tool: ToolSpec, *, alone: bool = True) -> list[Property]:
    """The arguments of a tool in the order of its schema; ``alone`` takes along what each refers to.

    Raises :class:`ToolError` for a schema that says more of the object than its properties and which are required.
    """
    root = resolve(tool, tool.parameters)
    found = [key for key in _WHOLE if key in root]
    if found:
        raise ToolError(
            f"the parameters of tool {tool.name!r} have {found[0]!r} at their top, "
            "which cannot be kept to in a format that writes arguments one by one"
        )
    members: Mapping[str, Any] = root.get("properties", {})
    required = root.get("required", [])
    unknown = [name for name in required if name not in members]
    if unknown:
        raise ToolError(f"the parameters of tool {tool.name!r} require {unknown[0]!r}, which is none of the properties")
    for name in members:
        if not name or re.search(r'[<>\n"]', name) or name != name.strip():
            raise ToolError(f"the parameter {name!r} of tool {tool.name!r} has a name that this format cannot write")
    names = [name for name in members if members[name] is not False]
    schemas = {name: _standing_alone(tool, members[name]) if alone else members[name] for name in names}
    return [Property(name, schemas[name], name in required, members[name]) for name in names]


def kind_of(tool: ToolSpec | None, name: str) -> Kind:
    """How the value of this argument is written."""
    try:
        schema = resolve(tool, tool.parameters).get("properties", {}).get(name, True) if tool else True
        types = _types(tool, schema, _MAX_REFS) if tool else _ALL_TYPES
    except (ToolError, AttributeError, TypeError):
        types = _ALL_TYPES
    if "string" not in types:
        return "json"
    return "text" if types == {"string"} else "either"


def resolve(tool: ToolSpec, schema: Any) -> Mapping[str, Any]:
    """The schema that ``schema`` refers to, as long as it is nothing but a reference."""
    for _ in range(_MAX_REFS):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" not in schema:
            return schema
        schema = target(tool, schema["$ref"])
    raise ToolError(f"the parameters of tool {tool.name!r} refer to themselves without end")


def target(tool: ToolSpec, reference: Any) -> Any:
    """What a reference means in the parameters of a tool. Raises :class:`ToolError` for nothing."""
    here: Any = tool.parameters
    parts = str(reference).split("/")
    try:
        if parts[0] != "#":
            raise KeyError
        for part in parts[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            here = here[int(part)] if isinstance(here, list) else here[part]
    except (KeyError, IndexError, ValueError, TypeError):
        raise ToolError(f"the parameters of tool {tool.name!r} refer to {reference!r}, which is not there") from None
    return here


def _types(tool: ToolSpec, schema: Any, depth: int) -> frozenset[str]:
    """The types of value that a schema lets through, or more."""
    if schema is False or depth == 0:
        return frozenset()
    if not isinstance(schema, Mapping):
        return _ALL_TYPES
    types = _ALL_TYPES
    if "type" in schema:
        wanted = schema["type"]
        types &= frozenset([wanted] if isinstance(wanted, str) else wanted)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        types &= frozenset().union(*({_type_of(value)} for value in values)) if values else frozenset()
    if "$ref" in schema:
        types &= _types(tool, target(tool, schema["$ref"]), depth - 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            types &= frozenset().union(*(_types(tool, one, depth - 1) for one in schema[key]))
    for one in schema.get("allOf", ()):
        types &= _types(tool, one, depth - 1)
    return types


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    for type_, name in ((bool, "boolean"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, type_):
            return name
    return "number"


def _standing_alone(tool: ToolSpec, schema: Any) -> Mapping[str, Any]:
    """A property's schema with what it refers to."""
    if not isinstance(schema, Mapping):
        return {}
    if '"$ref"' not in json.dumps(schema):
        return schema
    if "$ref" in schema and len(schema) == 1:
        return {"$ref": _moved(schema["$ref"]), "$defs": {"arguments": _rebased(tool.parameters)}}
    return {**_rebased(schema), "$defs": {"arguments": _rebased(tool.parameters)}}


def _rebased(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: _moved(value) if key == "$ref" and isinstance(value, str) else _rebased(value)
            for key, value in schema.items()
        }
    return [_rebased(one) for one in schema] if isinstance(schema, list) else schema


def _moved(reference: str) -> str:
    return "#/$defs/arguments" + reference[1:] if reference.startswith("#") else reference


__all__ = ["Kind", "Property", "kind_of", "properties", "resolve", "target"]
