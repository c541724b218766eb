"""Schemas for the values that a schema refuses."""

from __future__ import annotations

import itertools
from typing import Any

from llama_cffi.grammar.keywords import ANNOTATIONS, TYPES, at
from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.document import Document, Node

_OPPOSITES = {
    "minimum": ("number", "exclusiveMaximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}
_SILENT = ANNOTATIONS | {"$defs", "definitions"}


def negations(document: Document, node: Node, keyword: str) -> list[Node]:
    """Schemas of which at least one holds for a value exactly where ``node`` does not.

    Raises :class:`SchemaError` about ``keyword``, which asked for it, for what has no negation here.
    """
    if isinstance(node.value, bool):
        return [] if node.value else [document.derived(node, True, "anything")]
    found: list[Node] = []
    for name, inner in node.value.items():
        if name in _SILENT or name.startswith("x-"):
            continue
        values = _negated(document, node, name, inner)
        if values is None:
            raise at(node.pointer, name, f"is not supported inside {keyword!r}")
        found.extend(
            value if isinstance(value, Node) else document.derived(node, value, ("not", name, i))
            for i, value in enumerate(values)
        )
    return found


def _negated(document: Document, node: Node, keyword: str, inner: Any) -> list[Any] | None:
    if document.ref_alone and "$ref" in node.value:
        return None
    if keyword == "type":
        named = set(inner if isinstance(inner, list) else [inner])
        if "integer" in named and "number" not in named:
            return None
        others = [name for name in TYPES if name not in named and name != "integer"]
        return [{"type": others}] if others else []
    if keyword in _OPPOSITES:
        kind, opposite, step = _OPPOSITES[keyword]
        return [{"type": kind, opposite: inner + step}] if inner + step >= 0 or kind == "number" else []
    if keyword in ("const", "enum"):
        return _unlike(inner if keyword == "enum" else [inner])
    if keyword == "required":
        return [{"type": "object", "properties": {name: False}} for name in inner]
    if keyword == "properties":
        places = {name: document.child(node, value, "properties", name) for name, value in inner.items()}
        return [
            {"type": "object", "required": [name], "properties": {name: {"not": place.value}}}
            for name, place in places.items()
        ]
    if keyword == "not":
        return [document.child(node, inner, "not")]
    if keyword == "allOf":
        return [{"not": value} for value in inner]
    if keyword == "anyOf":
        return [{"allOf": [{"not": value} for value in inner]}]
    if keyword == "additionalProperties" and inner is True:
        return []
    return None


def _unlike(values: list[Any]) -> list[Any] | None:
    """Schemas for everything but these values."""
    if any(isinstance(value, (list, dict)) for value in values):
        return None
    texts = frozenset(value for value in values if isinstance(value, str))
    numbers = sorted({value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)})
    out: list[Any] = [{"type": ["array", "object"]}]
    out.append({"type": "string", "pattern": Pattern.none_of(texts).source()})
    if None not in values:
        out.append({"type": "null"})
    out.extend({"const": value} for value in (True, False) if not any(other is value for other in values))
    if not numbers:
        return [*out, {"type": "number"}]
    edges = [None, *numbers, None]
    for low, high in itertools.pairwise(edges):
        bounds = {"exclusiveMinimum": low} if low is not None else {}
        out.append({"type": "number"} | bounds | ({"exclusiveMaximum": high} if high is not None else {}))
    return out


__all__ = ["negations"]
