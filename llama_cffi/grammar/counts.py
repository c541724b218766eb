"""``minProperties`` and ``maxProperties``, which the engine enforces only if no listed property is optional."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from llama_cffi.grammar.automaton import EVERYTHING
from llama_cffi.grammar.document import Node
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.shapes import Object, State

_MAX_WRITTEN = 1_000
"""Objects that are written out for the number of properties of a closed one."""
_MAX_SUBSETS = 6


def counted(atoms: list[Node], shape: Object) -> Iterator[Object]:
    """Yield the object without counts that the engine would not enforce.

    Raises :class:`SchemaError` where it would take too many objects to say the same.
    """
    low, high, n_required = shape.low, shape.high, len(shape.required)
    if low <= n_required:
        low = 0
    if not shape.open and high is not None and high >= len(shape.properties):
        high = None
    if (high is not None and high < max(n_required, low)) or (not shape.open and low > len(shape.properties)):
        return
    if not low and high is None:
        yield replace(shape, low=0, high=None)
        return
    keyword = "minProperties" if low else "maxProperties"
    node = next((node for node in atoms if keyword in node.value), atoms[0])
    if not shape.open:
        yield from _closed(node, keyword, shape, max(0, low - n_required), None if high is None else high - n_required)
    else:
        yield from _open(node, keyword, shape, low, high)


def _closed(node: Node, keyword: str, shape: Object, least: int, most: int | None) -> Iterator[Object]:
    """``least`` to ``most`` of the optional properties: which may be there at all, and which are the first ones."""
    optional = [name for name in shape.properties if name not in shape.required]
    most = len(optional) if most is None else most
    if math.comb(len(optional), most) * math.comb(most, least) > _MAX_WRITTEN:
        raise at(node.pointer, keyword, f"is not supported beside {len(optional)} optional properties")
    for allowed in itertools.combinations(optional, most):
        for first in itertools.combinations(allowed, least):
            before = allowed[: allowed.index(first[-1])] if first else ()
            absent = (set(optional) - set(allowed)) | (set(before) - set(first))
            yield _with(shape, set(first), absent, 0, None)


def _open(node: Node, keyword: str, shape: Object, low: int, high: int | None) -> Iterator[Object]:
    optional = [name for name in shape.properties if name not in shape.required]
    if shape.patterns and (optional or shape.absent):
        try:
            shape = _explicit(shape)
        except PatternError as error:
            raise at(node.pointer, keyword, f"is not supported beside these patterns: {error}") from None
    if high is None and low == len(shape.required) + 1:
        # At least one more: for each optional property, those objects of which it is the first.
        for i, name in enumerate(optional):
            yield _with(shape, {name}, set(optional[:i]), 0, None)
        yield _with(shape, set(), set(optional), low, None)
        return
    if len(optional) > _MAX_SUBSETS:
        raise at(node.pointer, keyword, f"is not supported beside more than {_MAX_SUBSETS} optional properties")
    for bits in range(1 << len(optional)):
        chosen = {name for i, name in enumerate(optional) if bits >> i & 1}
        n = len(shape.required) + len(chosen)
        if high is not None and n > high:
            continue
        if low > n + 1:
            # The engine counts a name twice that comes twice.
            raise at(node.pointer, keyword, "is not supported where it asks for two properties without a name")
        yield _with(shape, chosen, set(optional) - chosen, low if low > n else 0, high)


def _explicit(shape: Object) -> Object:
    """The same with a pattern for all that may be there without a name, so that nothing is listed as absent."""
    listed = shape.properties.keys() | shape.absent
    others = EVERYTHING.without(Pattern.words(sorted(listed)).automaton) if listed else EVERYTHING
    regions: list[tuple[Pattern, State | None]] = []
    for pattern, state in shape.patterns:
        names = pattern.automaton
        if state is not None and not (here := names.both(others)).empty:
            regions.append((Pattern.of(here), state))
        others = others.without(names)
    if shape.rest is not None and not others.empty:
        regions.append((Pattern.of(others), shape.rest))
    kept = tuple((pattern, state) for pattern, state in regions if not pattern.empty)
    return replace(shape, patterns=kept, rest=None, absent=frozenset(), complete=True)


def _with(shape: Object, chosen: set[str], absent: set[str], low: int, high: int | None) -> Object:
    return replace(
        shape,
        properties={name: state for name, state in shape.properties.items() if name not in absent},
        required=shape.required | chosen,
        absent=frozenset() if shape.complete else shape.absent | absent,
        low=low,
        high=high,
    )


__all__ = ["counted"]
