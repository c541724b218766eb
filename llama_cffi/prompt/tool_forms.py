"""Definitions of tools as OpenAI, MCP, Anthropic and Cohere write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llama_cffi.errors import ToolError

_SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema")
"""Where the JSON Schema of the arguments is: in OpenAI's, MCP's and Anthropic's form."""
_TYPES = ("function", "custom")
"""OpenAI's and Anthropic's word for a tool that is a function."""

# Keys of MCP and Anthropic that say nothing to a model.
_DROPPED = frozenset({"title", "outputSchema", "annotations", "_meta", "icons", "execution", "cache_control"})
# Keys of OpenAI's form with a schema that is not that of the arguments.
_OTHER_SCHEMAS = frozenset({"return", "returns", "response", "parameter_definitions"})
_NAMES_OF_PARAMETERS = (
    "parameters parameter params param arguments argument args schema inputschema inputs input properties required "
    "parametersschema parameterschema jsonschema argsschema argumentsschema parametersjsonschema toolparameters"
)
_LIKE_PARAMETERS = frozenset(_NAMES_OF_PARAMETERS.split())
_COHERE_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}


class ToolForm(NamedTuple):
    """The contents of a definition. ``extra`` has further keys of OpenAI's form, which some chat templates write."""

    name: Any
    description: Any
    parameters: Any
    """The JSON Schema of the arguments; None where there is none."""
    extra: dict[str, Any]


def read_tool(tool: Mapping[str, Any]) -> ToolForm:
    """Return the contents of a definition in any of the forms.

    Raises :class:`ToolError` for a type that is not a function, a definition without a name, two places for the
    schema, and an unknown key that looks like a schema or a list of parameters.
    """
    if tool.get("type", "function") not in _TYPES:
        raise ToolError(f"a tool must be of type 'function', not {tool['type']!r}")
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping) or "name" not in inner:
        raise ToolError("a tool needs a name")
    extra = {key: value for key, value in inner.items() if key not in ("name", "description", "type", *_SCHEMA_KEYS)}
    _check_keys(extra, inner["name"])
    if inner is not tool:
        _check_keys({key: value for key, value in tool.items() if key not in ("type", "function")}, inner["name"])
        _check_keys({key: None for key in tool if key in _SCHEMA_KEYS}, inner["name"])
    schemas = [key for key in _SCHEMA_KEYS if inner.get(key) is not None]
    if len(schemas) > 1:
        raise ToolError(f"tool {inner['name']!r} has both {schemas[0]} and {schemas[1]}: give one schema")
    parameters = inner[schemas[0]] if schemas else None
    if parameters is None and isinstance(inner.get("parameter_definitions"), Mapping):
        parameters = _from_cohere(inner["parameter_definitions"])
    if "inputSchema" in inner or "input_schema" in inner:
        extra = {key: value for key, value in extra.items() if key not in _DROPPED}
    description = inner.get("description")
    return ToolForm(inner["name"], "" if description is None else description, parameters, extra)


def _check_keys(keys: Mapping[Any, Any], name: Any) -> None:
    for key, value in keys.items():
        if not isinstance(key, str) or key in _OTHER_SCHEMAS or key in _DROPPED:
            continue
        like = re.sub(r"[^a-z]", "", key.lower()) in _LIKE_PARAMETERS
        if like or (isinstance(value, Mapping) and ("properties" in value or value.get("type") == "object")):
            raise ToolError(
                f"tool {name!r} has the key {key!r}, which looks like its parameters: the JSON Schema of the arguments "
                "belongs under 'parameters', 'inputSchema' or 'input_schema', beside the name"
            )


def _from_cohere(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The schema that Cohere's ``parameter_definitions`` mean."""
    properties: dict[str, Any] = {}
    required = []
    for name, definition in definitions.items():
        given = definition if isinstance(definition, Mapping) else {}
        kind = re.split(r"\W", str(given.get("type", "")).lower())[0]
        schema = {"type": _COHERE_TYPES[kind]} if kind in _COHERE_TYPES else {}
        if isinstance(given.get("description"), str):
            schema["description"] = given["description"]
        properties[name] = schema
        if given.get("required"):
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


__all__ = ["ToolForm", "read_tool"]
