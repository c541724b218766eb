"""A validator that checks a value keyword by keyword, independent of the reader for grammars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.document import REFERENCES, Document, Node
from llama_cffi.grammar.equality import equal, exact, is_number, json_key
from llama_cffi.grammar.formats import MAX_LENGTHS, format_pattern
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.numeric import lower_bounds, upper_bounds
from llama_cffi.grammar.pattern import Pattern, PatternError


@dataclass
class _Seen:
    """Members of an object, or items of an array, that a keyword spoke of."""

    names: set[str] = field(default_factory=set)
    items: set[int] = field(default_factory=set)

    def add(self, other: _Seen) -> None:
        self.names |= other.names
        self.items |= other.items


class Validator:
    """Validates values against the schemas of a document.

    Raises :class:`SchemaError` for references that lead nowhere and for patterns that are not supported. With
    ``lenient``, such a reference restricts nothing, and such a pattern is searched for by Python's ``re``.
    """

    def __init__(self, document: Document, *, lenient: bool = False) -> None:
        self._document = document
        self._lenient = lenient
        self._patterns: dict[str, Pattern] = {}
        # The keys of the values of an enum, by the list that it is: the document keeps it.
        self._enums: dict[int, frozenset[object]] = {}
        self._open: set[tuple[int, int]] = set()

    def valid(self, value: Any) -> bool:
        """Return whether a value satisfies the whole document."""
        return self.matches(self._document.root, value)

    def matches(self, node: Node, value: Any) -> bool:
        """Return whether a value, in Python's types of JSON, satisfies a schema."""
        return self._seen(node, value) is not None

    def pattern(self, node: Node, source: str, keyword: str) -> Pattern:
        """Return the texts of a regular expression that stands under a keyword; raises :class:`SchemaError`."""
        found = self._patterns.get(source)
        if found is None:
            try:
                found = self._patterns[source] = Pattern.parse(source)
            except (PatternError, RecursionError) as error:
                raise at(node.pointer, keyword, f"{source[:60]!r}: {error or 'nested too deeply'}") from None
        return found

    def _seen(self, node: Node, value: Any) -> _Seen | None:
        """What the schema spoke of; None when it refuses the value."""
        if isinstance(node.value, bool):
            return _Seen() if node.value else None
        here = node.index, id(value)
        if here in self._open:
            return _Seen()  # A schema that refers to itself in place says nothing more.
        self._open.add(here)
        try:
            seen = _Seen()
            for reference in REFERENCES:
                if reference in node.value:
                    target = self._target(node, reference)
                    found = _Seen() if target is None else self._seen(target, value)
                    if found is None:
                        return None
                    seen.add(found)
                    if self._document.ref_alone:
                        return seen
            if not self._plain(node, value) or not self._in_place(node, value, seen):
                return None
            if isinstance(value, dict) and not self._object(node, value, seen):
                return None
            if isinstance(value, list) and not self._array(node, value, seen):
                return None
            return seen
        finally:
            self._open.discard(here)

    def _target(self, node: Node, reference: str) -> Node | None:
        try:
            return self._document.target(node, reference)
        except SchemaError:
            if self._lenient:
                return None
            raise

    def _found(self, node: Node, source: str, keyword: str, text: str) -> bool:
        """Whether a pattern is found in a text."""
        try:
            return self.pattern(node, source, keyword).matches(text)
        except SchemaError:
            if not self._lenient:
                raise
        try:
            return re.search(source, text) is not None
        except re.error:
            return True

    # -- keywords of one value

    def _keys(self, values: list[Any]) -> frozenset[object]:
        found = self._enums.get(id(values))
        if found is None:
            found = self._enums[id(values)] = frozenset(map(json_key, values))
        return found

    def _plain(self, node: Node, value: Any) -> bool:
        schema = node.value
        types = schema.get("type")
        if types is not None and not any(
            _TYPES[name](value) for name in (types if isinstance(types, list) else [types])
        ):
            return False
        if "const" in schema and not equal(schema["const"], value):
            return False
        if "enum" in schema and json_key(value) not in self._keys(schema["enum"]):
            return False
        if is_number(value):
            number = exact(value)
            if not all(number > low if exclusive else number >= low for low, exclusive, _ in lower_bounds(node)):
                return False
            if not all(number < high if exclusive else number <= high for high, exclusive, _ in upper_bounds(node)):
                return False
            return "multipleOf" not in schema or (number / exact(schema["multipleOf"])).denominator == 1
        if isinstance(value, str):
            if not _within(schema, len(value), "Length"):
                return False
            if "pattern" in schema and not self._found(node, schema["pattern"], "pattern", value):
                return False
            pattern = format_pattern(schema["format"]) if "format" in schema else None
            return pattern is None or (
                len(value) <= MAX_LENGTHS.get(schema["format"], len(value)) and pattern.matches(value)
            )
        return True

    # -- keywords that hold other schemas for the same value

    def _in_place(self, node: Node, value: Any, seen: _Seen) -> bool:
        schema = node.value

        def inner(place: Any, *tokens: str | int) -> _Seen | None:
            return self._seen(self._document.child(node, place, *tokens), value)

        for i, place in enumerate(schema.get("allOf", ())):
            if (found := inner(place, "allOf", i)) is None:
                return False
            seen.add(found)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                held = [x for i, p in enumerate(schema[keyword]) if (x := inner(p, keyword, i)) is not None]
                if not held or (keyword == "oneOf" and len(held) > 1):
                    return False
                for found in held:
                    seen.add(found)
        if "not" in schema and inner(schema["not"], "not") is not None:
            return False
        if "if" in schema:
            found = inner(schema["if"], "if")
            if found is not None:
                seen.add(found)
            branch = "else" if found is None else "then"
            if branch in schema:
                if (found := inner(schema[branch], branch)) is None:
                    return False
                seen.add(found)
        if isinstance(value, dict):
            for keyword in ("dependentSchemas", "dependentRequired", "dependencies"):
                for name, place in schema.get(keyword, {}).items():
                    if name not in value:
                        continue
                    if isinstance(place, list):
                        if not value.keys() >= set(place):
                            return False
                    elif (found := inner(place, keyword, name)) is None:
                        return False
                    else:
                        seen.add(found)
        return True

    # -- keywords of objects and arrays

    def _object(self, node: Node, value: dict[str, Any], seen: _Seen) -> bool:
        schema = node.value
        if not _within(schema, len(value), "Properties") or not value.keys() >= set(schema.get("required", ())):
            return False
        if "propertyNames" in schema:
            names = self._document.child(node, schema["propertyNames"], "propertyNames")
            if not all(self.matches(names, name) for name in value):
                return False
        here: set[str] = set()
        for name, item in value.items():
            nodes = list(self._property(node, name))
            if nodes:
                here.add(name)
            elif "additionalProperties" in schema:
                nodes = [self._document.child(node, schema["additionalProperties"], "additionalProperties")]
            if not all(self.matches(inner, item) for inner in nodes):
                return False
        seen.names |= value.keys() if "additionalProperties" in schema else here
        if "unevaluatedProperties" in schema:
            rest = self._document.child(node, schema["unevaluatedProperties"], "unevaluatedProperties")
            if not all(self.matches(rest, item) for name, item in value.items() if name not in seen.names):
                return False
            seen.names |= value.keys()
        return True

    def _property(self, node: Node, name: str) -> Iterator[Node]:
        listed = node.value.get("properties", {})
        if name in listed:
            yield self._document.child(node, listed[name], "properties", name)
        for source, place in node.value.get("patternProperties", {}).items():
            if self._found(node, source, "patternProperties", name):
                yield self._document.child(node, place, "patternProperties", source)

    def _array(self, node: Node, value: list[Any], seen: _Seen) -> bool:
        schema = node.value
        if not _within(schema, len(value), "Items"):
            return False
        if schema.get("uniqueItems") and len(set(map(json_key, value))) < len(value):
            return False
        prefix, rest = item_schemas(self._document, node)
        for i, item in enumerate(value):
            inner = prefix[i] if i < len(prefix) else rest
            if inner is not None:
                if not self.matches(inner, item):
                    return False
                seen.items.add(i)
        if "contains" in schema:
            wanted = self._document.child(node, schema["contains"], "contains")
            found = {i for i, item in enumerate(value) if self.matches(wanted, item)}
            if not schema.get("minContains", 1) <= len(found) <= schema.get("maxContains", len(value)):
                return False
            seen.items |= found
        if "unevaluatedItems" in schema:
            other = self._document.child(node, schema["unevaluatedItems"], "unevaluatedItems")
            if not all(self.matches(other, item) for i, item in enumerate(value) if i not in seen.items):
                return False
            seen.items |= set(range(len(value)))
        return True


def item_schemas(document: Document, node: Node) -> tuple[list[Node], Node | None]:
    """Return the schemas of the first items, and that of the others where there is one, by the document's draft."""
    value = node.value
    items = value.get("items")
    if isinstance(items, list):
        if document.draft >= 2020:
            raise at(node.pointer, "items", "must not be a list in draft 2020-12; use prefixItems")
        prefix, rest = [document.child(node, x, "items", i) for i, x in enumerate(items)], "additionalItems"
    elif document.draft in (4, 6, 7, 2019):
        prefix, rest = [], "items"
    else:
        first = value.get("prefixItems", ())
        prefix, rest = [document.child(node, x, "prefixItems", i) for i, x in enumerate(first)], "items"
    return prefix, document.child(node, value[rest], rest) if rest in value else None


def _within(schema: dict[str, Any], n: int, what: str) -> bool:
    low, high = schema.get("min" + what, 0), schema.get("max" + what, n)
    return bool(low <= n <= high)


def _is_integer(value: Any) -> bool:
    return is_number(value) and value == int(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "fraction": lambda value: is_number(value) and not _is_integer(value),
    "number": is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
"""What each name of a type means; ``fraction``, a number that is no integer, only stands in negations."""

__all__ = ["Validator", "item_schemas"]
