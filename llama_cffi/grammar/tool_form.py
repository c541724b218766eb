"""The schema of a tool's arguments as a form, with objects that take only the properties that they list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llama_cffi.grammar.document import Document
from llama_cffi.grammar.form import Form, read_form
from llama_cffi.grammar.keywords import as_json
from llama_cffi.grammar.reader import SchemaReader

_CACHE_SIZE = 64

_VALUES = ("default", "examples", "const", "enum", "discriminator")
"""Keywords whose values are no schemas."""

_NAMES = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords whose values are schemas by name."""

_OPENING = {
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "if",
}
"""Keywords beside which an object may have more properties than it lists."""


def tool_form(parameters: Mapping[str, Any]) -> Form:
    """Return the form of a tool's arguments, which are an object. Forms are kept and used again.

    Raises :class:`SchemaError` for what cannot be enforced.
    """
    return _read(json.dumps(as_json(closed(parameters))))


@lru_cache(maxsize=_CACHE_SIZE)
def _read(parameters: str) -> Form:
    document = Document(json.loads(parameters))
    an_object = document.derived(document.root, {"type": "object"}, "arguments")
    return read_form(SchemaReader(document), frozenset({document.root.index, an_object.index}))


def closed(schema: Any, *, names: bool = False) -> Any:
    """Return the schema with objects that take no properties but those that they list, unless they say more of others.

    JSON Schema lets everything through that it does not speak of; a caller of a function does not mean that.
    ``names`` says that the keys are no keywords but names.
    """
    if isinstance(schema, (list, tuple)):
        return [closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if names:
        return {name: closed(inner) for name, inner in schema.items()}
    out = {
        keyword: inner if keyword in _VALUES else closed(inner, names=keyword in _NAMES)
        for keyword, inner in schema.items()
    }
    if "properties" in out and not out.keys() & _OPENING:
        out["additionalProperties"] = False
    return out


__all__ = ["closed", "tool_form"]
