"""Schemas for the values that a schema refuses."""

from __future__ import annotations

import itertools
from typing import Any

from llama_cffi.grammar.document import Document, Node
from llama_cffi.grammar.formats import KNOWN_FORMATS, MAX_LENGTHS, format_pattern
from llama_cffi.grammar.keywords import KNOWN, TYPES, at
from llama_cffi.grammar.numeric import lower_bounds, upper_bounds
from llama_cffi.grammar.pattern import Pattern, PatternError

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
_SILENT = {"$defs", "definitions", "then", "else", "minContains", "maxContains", "additionalItems"}
"""Keywords that say nothing by themselves."""


def negations(document: Document, node: Node, keyword: str) -> list[Node]:
    """Return schemas of which at least one holds for a value exactly where ``node`` does not.

    Raises :class:`SchemaError` about ``keyword``, which asked for it, for what has no negation here.
    """
    if isinstance(node.value, bool):
        return [] if node.value else [document.derived(node, True, "anything")]
    found: list[Node] = []
    for name, inner in node.value.items():
        if name not in KNOWN or name in _SILENT:
            continue
        try:
            values = _negated(document, node, name, inner)
        except (PatternError, RecursionError) as error:
            raise at(node.pointer, name, f"is not supported inside {keyword!r}: {error}") from None
        if values is None:
            raise at(node.pointer, name, f"is not supported inside {keyword!r}")
        found.extend(
            value if isinstance(value, Node) else document.derived(node, value, ("not", name, i))
            for i, value in enumerate(values)
        )
    return found


def _negated(document: Document, node: Node, keyword: str, inner: Any) -> list[Any] | None:
    if document.ref_alone and "$ref" in node.value and keyword != "$ref":
        return []
    if keyword == "$ref":
        target = document.target(node)
        return [document.derived(target, {"not": target.value}, "not")]
    if keyword in ("$schema", "$id", "$anchor", "$dynamicAnchor"):
        return []
    if keyword == "type":
        named = set(inner if isinstance(inner, list) else [inner])
        others: list[str] = [name for name in TYPES if name not in named and name != "integer"]
        if "integer" in named and "number" not in named:
            others = [*(name for name in others if name != "number"), "fraction"]
        return [{"type": others}] if others else []
    if keyword in _OPPOSITES:
        kind, opposite, step = _OPPOSITES[keyword]
        if isinstance(inner, bool):
            return []
        if kind == "number":
            bounds = lower_bounds(node) if keyword in ("minimum", "exclusiveMinimum") else upper_bounds(node)
            exclusive = next(is_exclusive for _, is_exclusive, named in bounds if named == keyword)
            if exclusive:
                opposite = {"exclusiveMaximum": "maximum", "exclusiveMinimum": "minimum"}.get(opposite, opposite)
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
    if keyword == "pattern":
        return _other_texts(Pattern.parse(inner))
    if keyword == "format":
        pattern = None if inner in MAX_LENGTHS else format_pattern(inner)
        if pattern is None:
            return None if inner in KNOWN_FORMATS else []
        return _other_texts(pattern)
    if keyword == "items" and isinstance(inner, (dict, bool)) and "prefixItems" not in node.value:
        return [{"type": "array", "contains": {"not": inner}}]
    if keyword == "contains" and not node.value.keys() & {"minContains", "maxContains"}:
        return [{"type": "array", "items": {"not": inner}}]
    if keyword == "dependentRequired":
        return [
            {"type": "object", "required": [name], "properties": {other: False}}
            for name, others in inner.items()
            for other in others
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


def _other_texts(pattern: Pattern) -> list[Any]:
    """Schemas of the strings that do not match."""
    others = pattern.automaton.complement()
    return [] if others.empty else [{"type": "string", "pattern": Pattern.of(others).source()}]


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
