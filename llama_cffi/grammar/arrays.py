"""The arrays that schemas leave."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llama_cffi.grammar.document import Node
from llama_cffi.grammar.equality import json_key
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.shapes import Array, ShapeReader, Simple, State, Values, highest, lowest, state_of
from llama_cffi.grammar.validation import item_schemas

_MAX_ITEMS = 10_000
_MAX_UNIQUE = 120
"""Arrangements of different items that are written out."""
_MAX_CONTAINING = 200
"""Arrays that are written out for ``contains``."""


def array_shapes(reader: ShapeReader, atoms: list[Node]) -> Iterator[Array]:
    """Yield the arrays that all of the schemas leave. Raises :class:`SchemaError` for what the engine cannot keep
    to."""
    low, high = lowest(atoms, "minItems"), highest(atoms, "maxItems")
    of_each = [_items(reader, node) for node in atoms]
    n = max((len(prefix) for prefix, _ in of_each), default=0)
    prefix: list[State] = []
    for i in range(n):
        nodes = [items[i] if i < len(items) else rest for items, rest in of_each]
        state = state_of(node for node in nodes if node is not None)
        if state is None:
            high = i if high is None else min(high, i)
            break
        prefix.append(state)
    rest = state_of(rest for _, rest in of_each if rest is not None)
    if rest is None:
        high = len(prefix) if high is None else min(high, len(prefix))
    if high is not None and low > high:
        return
    if max(low, high or 0) > _MAX_ITEMS:
        keyword = "maxItems" if low <= _MAX_ITEMS else "minItems"
        node = next(node for node in atoms if node.get(keyword) is not None and node.value[keyword] > _MAX_ITEMS)
        raise at(node.pointer, keyword, f"is not supported above {_MAX_ITEMS:,}")
    found = [Array(tuple(prefix[:high]), rest, low, high)]
    for node in atoms:
        if "contains" in node.value:
            found = [array for one in found for array in _containing(reader, node, one)]
            if len(found) > _MAX_CONTAINING:
                raise at(node.pointer, "contains", "has too many places where the items may stand")
    for node in atoms:
        if node.get("uniqueItems"):
            found = [array for one in found for array in _unique(reader, node, one)]
            break
    yield from found


def _items(reader: ShapeReader, node: Node) -> tuple[list[Node], Node | None]:
    """The schemas of the first items, and that of the others where there is one."""
    prefix, rest = item_schemas(reader.document, node)
    if "unevaluatedItems" in node.value and rest is None:
        check_unevaluated(node, "unevaluatedItems")
        rest = reader.document.child(node, node.value["unevaluatedItems"], "unevaluatedItems")
    return prefix, rest


def check_unevaluated(node: Node, keyword: str) -> None:
    """Raise unless the keyword stands alone, where it means the same as the keyword for additional ones."""
    for other in ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "dependencies", "contains"):
        if other in node.value:
            raise at(node.pointer, keyword, f"is not supported beside {other!r}")


# -- contains


def _containing(reader: ShapeReader, node: Node, array: Array) -> Iterator[Array]:
    """The arrays with ``minContains`` to ``maxContains`` items of a kind, as a union by where these stand."""
    wanted = reader.document.child(node, node.value["contains"], "contains")
    least, most = int(node.value.get("minContains", 1)), node.get("maxContains")
    if most is not None and most >= (math.inf if array.high is None else array.high):
        most = None
    if wanted.value is True:
        low, high = max(array.low, least), array.high
        if most is not None:
            high = int(most) if high is None else min(int(most), high)
        if high is None or low <= high:
            yield replace(array, low=low, high=high)
        return
    if wanted.value is False:
        if least == 0:
            yield array
        return
    if most is None and (least == 0 or (least == 1 and _certain(reader, wanted, array))):
        yield array
        return
    other = reader.document.derived(wanted, {"not": wanted.value}, "not contained")
    if most == 0:
        if least == 0:
            prefix = tuple(state | {other.index} for state in array.prefix)
            yield replace(array, prefix=prefix, rest=None if array.rest is None else array.rest | {other.index})
        return
    if array.high is None:
        raise at(node.pointer, "contains", "is not supported for arrays without maxItems")
    sizes = range(least, (least if most is None else int(most)) + 1)
    if sum(math.comb(array.high, size) for size in sizes) > _MAX_CONTAINING:
        raise at(node.pointer, "contains", "has too many places where the items may stand")
    for size in sizes:
        for places in itertools.combinations(range(array.high), size):
            if made := _with_places(array, set(places), wanted, None if most is None else other):
                yield made


def _with_places(array: Array, places: set[int], wanted: Node, other: Node | None) -> Array | None:
    prefix = []
    for i in range(array.high or 0):
        state = array.prefix[i] if i < len(array.prefix) else array.rest
        if state is None:
            return None
        node = wanted if i in places else other
        prefix.append(state if node is None else state | {node.index})
    return Array(tuple(prefix), None, max(array.low, max(places, default=-1) + 1), array.high)


def _certain(reader: ShapeReader, wanted: Node, array: Array) -> bool:
    """Whether every array has an item of the kind already."""
    other = reader.document.derived(wanted, {"not": wanted.value}, "not contained")
    needed = [*array.prefix[: array.low], *[array.rest or frozenset()] * (array.low > len(array.prefix))]
    return any(reader.apart(state | {other.index}) for state in needed)


# -- uniqueItems


def _unique(reader: ShapeReader, node: Node, array: Array) -> Iterator[Array]:
    """The arrays without two equal items: of few values, every order of them."""
    if array.high is not None and array.high <= 1:
        yield array
        return
    if array.high is not None and array.high <= len(array.prefix) <= 20:
        pairs = itertools.combinations(array.prefix[: array.high], 2)
        if all(reader.apart(a | b) for a, b in pairs):
            yield array
            return
    if array.rest is None and not array.prefix:
        yield array
        return
    values = _finite(reader, array)
    if values is None:
        raise at(node.pointer, "uniqueItems", "is not supported for arrays whose items are not of a few values")
    high = len(values) if array.high is None else min(array.high, len(values))
    if math.perm(len(values), high) > _MAX_UNIQUE:
        raise at(node.pointer, "uniqueItems", f"is not supported for more than {_MAX_UNIQUE} orders of the items")
    if array.low > high:
        return
    document = reader.document
    states = [
        frozenset({document.derived(document.root, {"const": value}, ("const", json_key(value))).index})
        for value in values
    ]
    for order in itertools.permutations(range(len(values)), high):
        keys = [values[i] for i in order]
        fits = [
            all(reader.matches(document.nodes[index], value) for index in _state_at(array, i) or ())
            for i, value in enumerate(keys)
        ]
        n = fits.index(False) if False in fits else high
        if n >= array.low:
            yield Array(tuple(states[i] for i in order[:n]), None, array.low, n)


def _state_at(array: Array, i: int) -> State | None:
    return array.prefix[i] if i < len(array.prefix) else array.rest


def _finite(reader: ShapeReader, array: Array) -> list[Any] | None:
    """All values that an item can have, when there are few."""
    found: dict[object, Any] = {}
    states = [*array.prefix[: array.high]]
    if array.rest is not None and (array.high is None or array.high > len(array.prefix)):
        states.append(array.rest)
    for state in states:
        for shape in reader.shapes(state):
            if isinstance(shape, Values):
                values = list(shape.values)
            elif isinstance(shape, Simple):
                values = [None] if shape.type == "null" else [False, True]
            else:
                return None
            found |= {json_key(value): value for value in values}
            if len(found) > _MAX_UNIQUE:
                return None
    return list(found.values())


__all__ = ["array_shapes", "check_unevaluated"]
