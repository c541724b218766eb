"""The objects that schemas leave."""

from __future__ import annotations

from collections.abc import Iterator

from llama_cffi.grammar.arrays import check_unevaluated
from llama_cffi.grammar.automaton import EVERYTHING, NOTHING, Automaton
from llama_cffi.grammar.counts import counted
from llama_cffi.grammar.document import Node
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.pattern import MAX_SIZE, Pattern, PatternError
from llama_cffi.grammar.shapes import Object, ShapeReader, State, Text, Values, highest, lowest, state_of
from llama_cffi.grammar.strings import text_automaton

_MAX_NAMES = 1_000
_MAX_LISTED = 200
"""Names that ``propertyNames`` allows, up to which they are listed."""
_MAX_REGIONS = 64
_MAX_NAMES_SIZE = 400
"""Nodes of a pattern of names that was put together from others. The engine finds out that two patterns have no name in
common, and gives up at larger ones."""


def object_shapes(reader: ShapeReader, atoms: list[Node]) -> Iterator[Object]:
    """Yield the objects that all of the schemas leave. Raises :class:`SchemaError` for what the engine cannot keep
    to."""
    required = dict.fromkeys(name for node in atoms for name in node.get("required") or ())
    names = dict.fromkeys(name for node in atoms for name in node.get("properties") or ()) | required
    if len(names) > _MAX_NAMES:
        raise at(
            atoms[0].pointer, "properties", f"has more than {_MAX_NAMES} names, with those of the schemas beside it"
        )
    patterns: dict[str, Pattern] = {}
    place: tuple[str, str] = "", "patternProperties"
    for node in atoms:
        for source in node.get("patternProperties") or ():
            patterns[source] = reader.pattern(node, source, "patternProperties")
            place = node.pointer, "patternProperties"
    filters = [node for node in atoms if "propertyNames" in node.value]
    if filters:
        place = filters[0].pointer, "propertyNames"
    name_nodes = [reader.document.child(node, node.value["propertyNames"], "propertyNames") for node in filters]
    try:
        allowed = _allowed_names(reader, state_of(name_nodes)) if filters else None
        if allowed is not None and (listed := allowed.texts(_MAX_LISTED)) is not None:
            names |= dict.fromkeys(listed)
            allowed = NOTHING
        properties: dict[str, State] = {}
        absent = set()
        for name in names:
            matched = [source for source, pattern in patterns.items() if pattern.matches(name)]
            state = _state(reader, atoms, name, matched)
            if state is None or not all(reader.matches(node, name) for node in name_nodes):
                absent.add(name)
            else:
                properties[name] = state
        if not absent.isdisjoint(required):
            return
        regions, rest = _regions(reader, atoms, patterns, allowed)
        beside = (_beside(properties, pattern, state) for pattern, state in regions)
        regions = tuple((pattern, state) for pattern, state in beside if not pattern.empty)
    except PatternError as error:
        raise at(*place, str(error)) from None
    low, high = lowest(atoms, "minProperties"), highest(atoms, "maxProperties")
    found = Object(properties, frozenset(required), frozenset(absent), regions, rest, low, high)
    yield from counted(atoms, found)


def _state(reader: ShapeReader, atoms: list[Node], name: str | None, matched: list[str]) -> State | None:
    return state_of(inner for node in atoms for inner in _property(reader, node, name, matched))


def _property(reader: ShapeReader, node: Node, name: str | None, matched: list[str]) -> Iterator[Node]:
    """The schemas of a node for a property that matches these patterns; ``name`` None is in no ``properties``."""
    document, value = reader.document, node.value
    seen = False
    if name is not None and name in value.get("properties", ()):
        seen = True
        yield document.child(node, value["properties"][name], "properties", name)
    for source in matched:
        if source in value.get("patternProperties", ()):
            seen = True
            yield document.child(node, value["patternProperties"][source], "patternProperties", source)
    if seen:
        return
    if "additionalProperties" in value:
        yield document.child(node, value["additionalProperties"], "additionalProperties")
    elif "unevaluatedProperties" in value:
        check_unevaluated(node, "unevaluatedProperties")
        yield document.child(node, value["unevaluatedProperties"], "unevaluatedProperties")


def _allowed_names(reader: ShapeReader, state: State | None) -> Automaton | None:
    """The names that ``propertyNames`` leaves; None for all."""
    found = NOTHING
    for shape in () if state is None else reader.shapes(state):
        if isinstance(shape, Text):
            if not shape.patterns and not shape.low and shape.high is None:
                return None
            found = found.either(text_automaton(shape))
        elif isinstance(shape, Values):
            words = [value for value in shape.values if isinstance(value, str)]
            found = found.either(Pattern.words(words).automaton) if words else found
    return found


def _regions(
    reader: ShapeReader, atoms: list[Node], patterns: dict[str, Pattern], allowed: Automaton | None
) -> tuple[tuple[tuple[Pattern, State | None], ...], State | None]:
    """What names that are not listed may stand for: disjoint patterns, and all the others."""
    rest = _state(reader, atoms, None, [])
    patterns = {source: pattern for source, pattern in patterns.items() if not pattern.empty}
    if allowed is None and _disjoint(list(patterns.values())):
        return tuple((pattern, _state(reader, atoms, None, [source])) for source, pattern in patterns.items()), rest
    everything = EVERYTHING if allowed is None else allowed
    regions: list[tuple[Automaton, list[str]]] = [] if everything.empty else [(everything, [])]
    for source, pattern in patterns.items():
        split = []
        for names, matched in regions:
            split.append((names.both(pattern.automaton), [*matched, source]))
            split.append((names.without(pattern.automaton), matched))
        regions = [(names, matched) for names, matched in split if not names.empty]
        if len(regions) > _MAX_REGIONS:
            raise PatternError(f"has patterns that overlap in more than {_MAX_REGIONS} ways")
    of_state: dict[State | None, Automaton] = {}
    for names, matched in regions:
        state = _state(reader, atoms, None, matched)
        of_state[state] = names.either(of_state[state]) if state in of_state else names
    if allowed is None:
        # What is left over needs no pattern of its own.
        of_state.pop(rest, None)
        if rest is None:
            of_state.pop(None, None)
    else:
        of_state.pop(None, None)
        rest = None
    written = {pattern.automaton: pattern for pattern in reversed(patterns.values())}
    max_size = MAX_SIZE if len(of_state) == 1 else _MAX_NAMES_SIZE
    pairs = ((written.get(names) or Pattern.of(names, max_size=max_size), state) for state, names in of_state.items())
    return tuple((pattern, state) for pattern, state in pairs if not pattern.empty), rest


def _beside(properties: dict[str, State], pattern: Pattern, state: State | None) -> tuple[Pattern, State | None]:
    """A pattern without the names that are listed: the engine would ask for both, and fails at some that it mixes."""
    others = [name for name in properties if pattern.matches(name)]
    if others:
        left = pattern.automaton.without(Pattern.words(others).automaton)
        pattern = Pattern.words([]) if left.empty else Pattern.of(left, max_size=_MAX_NAMES_SIZE)
    return pattern, state


def _disjoint(patterns: list[Pattern]) -> bool:
    return all(
        one.automaton.both(other.automaton).empty for i, one in enumerate(patterns) for other in patterns[i + 1 :]
    )


__all__ = ["object_shapes"]
