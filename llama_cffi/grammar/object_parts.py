"""A JSON Schema taken apart: for a set of schemas that all must hold, the values that they leave."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.formats import FORMATS, format_pattern
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.negation import negations
from llama_cffi.grammar.numeric import Number, number, numbers
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.references import Document, Node

State: TypeAlias = "frozenset[int]"
"""Schemas, by index, that must all hold. The empty state is any value."""

NULL, BOOLEAN, INTEGER, FRACTIONAL, STRING, ARRAY, OBJECT = (1 << i for i in range(7))
_NUMBER = INTEGER | FRACTIONAL
_ALL = (1 << 7) - 1
_MASKS = {
    "null": NULL, "boolean": BOOLEAN, "integer": INTEGER, "number": _NUMBER, "string": STRING, "array": ARRAY,
    "object": OBJECT,
}  # fmt: skip
_MAX_BRANCHES = 1_000
_MAX_ALL_BRANCHES = 10_000
_MAX_NAMES = 1_000
_MAX_DEPTH = 120
_MAX_SUBSETS = 6


@dataclass(frozen=True)
class Values:
    """These values and no others; never empty."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Simple:
    """Null, or any boolean."""

    type: str


@dataclass(frozen=True)
class Text:
    """Strings of a length, in code points, that match every pattern."""

    low: int
    high: int | None
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True)
class Array:
    """``low`` to ``high`` items, the first ones as ``prefix`` says; ``rest`` None allows no others."""

    prefix: tuple[State, ...]
    rest: State | None
    low: int
    high: int | None


@dataclass(frozen=True)
class Object:
    """Properties by name, then those whose names match a pattern, then all the others; None allows none of them."""

    properties: dict[str, State]
    required: frozenset[str]
    absent: frozenset[str]
    patterns: tuple[tuple[Pattern, State | None], ...]
    rest: State | None
    low: int
    high: int | None


Part: TypeAlias = "Values | Simple | Number | Text | Array | Object"


@dataclass
class _Choice:
    """Schemas of which one list must hold."""

    options: list[list[Node]] = field(default_factory=list)


class Parts:
    """Takes a document apart, state by state. Raises :class:`SchemaError` for what the engine could not keep to."""

    def __init__(self, document: Document) -> None:
        self.document = self._document = document
        self._parts: dict[tuple[State, bool], tuple[Part, ...]] = {}
        self._patterns: dict[str, Pattern] = {}
        self._branches_made = 0
        self._loose = False
        """Whether ``oneOf`` counts as ``anyOf``: enough to see that nothing is left, and free of loops."""

    # -- from a state to conjunctions: all applicators that stand in place are gone

    def of(self, state: State) -> tuple[Part, ...]:
        """What the state leaves: the union of these."""
        found = self._parts.get((state, self._loose))
        if found is None:
            todo: list[Node | _Choice] = [self._document.nodes[index] for index in sorted(state)]
            found = ()
            for atoms, mask in self._conjunctions(todo, {}, _ALL, 0):
                found += tuple(part for part in self._parts_of(atoms, mask) if part not in found)
            self._parts[state, self._loose] = found
        return found

    def _conjunctions(
        self, todo: list[Node | _Choice], atoms: dict[int, Node], mask: int, depth: int
    ) -> Iterator[tuple[list[Node], int]]:
        if depth > _MAX_DEPTH:
            raise SchemaError("the schema has too many choices inside each other")
        todo, atoms = list(reversed(todo)), dict(atoms)
        while todo:
            item = todo.pop()
            if isinstance(item, _Choice):
                for option in item.options:
                    yield from self._conjunctions([*option, *reversed(todo)], atoms, mask, depth + 1)
                return
            if item.value is False:
                return
            if item.value is True or item.index in atoms:
                continue
            atoms[item.index] = item
            mask &= self._types(item)
            if not mask:
                return
            todo.extend(reversed(self._in_place(item)))
        self._branches_made += 1
        if self._branches_made > _MAX_ALL_BRANCHES:
            raise SchemaError("the schema has too many combinations of choices")
        yield list(atoms.values()), mask

    def _types(self, node: Node) -> int:
        if self._document.ref_alone and "$ref" in node.value:
            return _ALL
        mask, types = _ALL, node.get("type")
        if types is not None:
            mask = 0
            for name in types if isinstance(types, list) else [types]:
                mask |= _MASKS[name]
        values = _values(node)
        if values is not None:
            among = 0
            for value in values:
                among |= _type_of(value)
            mask &= among
        return mask

    def _in_place(self, node: Node) -> list[Node | _Choice]:
        """What else must hold where the node does."""
        document, value = self._document, node.value
        out: list[Node | _Choice] = []
        if "$ref" in value:
            out.append(document.target(node))
            if document.ref_alone:
                return out
        for i, inner in enumerate(value.get("allOf", ())):
            out.append(document.child(node, inner, "allOf", i))
        if "anyOf" in value:
            options = [[document.child(node, inner, "anyOf", i)] for i, inner in enumerate(value["anyOf"])]
            if len(options) > _MAX_BRANCHES:
                raise at(node.pointer, "anyOf", f"has more than {_MAX_BRANCHES} options")
            out.append(_Choice(options))
        if "oneOf" in value:
            out.append(self._one_of(node))
        if "not" in value:
            out.append(_Choice([[x] for x in negations(document, document.child(node, value["not"], "not"), "not")]))
        if "if" in value and ("then" in value or "else" in value):
            condition = document.child(node, value["if"], "if")
            then = [document.child(node, value["then"], "then")] if "then" in value else []
            other = [document.child(node, value["else"], "else")] if "else" in value else []
            options = [[condition, *then]]
            options.extend([negated, *other] for negated in negations(document, condition, "if"))
            out.append(_Choice(options))
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, inner in value.get(keyword, {}).items():
                absent = document.derived(node, {"properties": {name: False}}, ("absent", name))
                present = document.derived(node, {"type": "object", "required": [name]}, ("present", name))
                if isinstance(inner, list):
                    then = [document.derived(node, {"required": inner}, (keyword, name))]
                else:
                    then = [document.child(node, inner, keyword, name)]
                out.append(_Choice([[absent], [present, *then]]))
        return out

    def _one_of(self, node: Node) -> _Choice:
        """An option holds, and those of the others that could hold with it do not."""
        document = self._document
        options = [document.child(node, inner, "oneOf", i) for i, inner in enumerate(node.value["oneOf"])]
        if len(options) > 200:
            raise at(node.pointer, "oneOf", "has more than 200 options")
        if self._loose:
            return _Choice([[option] for option in options])
        # What stands beside oneOf may be what keeps two options apart.
        beside = {key: inner for key, inner in node.value.items() if key not in ("oneOf", "$id", "$anchor")}
        rest = document.derived(node, beside, "beside oneOf")
        together: dict[int, list[Node]] = {i: [] for i in range(len(options))}
        for i, one in enumerate(options):
            for j in range(i + 1, len(options)):
                if not self._apart(frozenset({rest.index, one.index, options[j].index})):
                    together[i].append(options[j])
                    together[j].append(one)
        choice = _Choice()
        for i, one in enumerate(options):
            lists = [[one]]
            for other in together[i]:
                lists = [[*nodes, x] for nodes in lists for x in negations(document, other, "oneOf")]
                if len(lists) > _MAX_BRANCHES:
                    raise at(node.pointer, "oneOf", "has too many options that can hold at once")
            choice.options.extend(lists)
        return choice

    def _apart(self, state: State) -> bool:
        """Whether schemas certainly have no value in common."""
        self._loose = True
        try:
            return self._empty(state, 3)
        finally:
            self._loose = False

    def _empty(self, state: State, depth: int) -> bool:
        return all(self._part_empty(part, depth) for part in self.of(state))

    def _part_empty(self, part: Part, depth: int) -> bool:
        if depth <= 0:
            return False
        if isinstance(part, Object):
            return any(self._empty(part.properties[name], depth - 1) for name in part.required)
        if isinstance(part, Array):
            needed = [*part.prefix[: part.low], *[part.rest or frozenset()] * (part.low > len(part.prefix))]
            return any(self._empty(state, depth - 1) for state in needed)
        return False

    # -- from a conjunction to its parts, one for each type

    def _parts_of(self, atoms: list[Node], mask: int) -> Iterator[Part]:
        if self._document.ref_alone:
            atoms = [node for node in atoms if "$ref" not in node.value]
        parts: list[Part] = []
        if mask & NULL:
            parts.append(Simple("null"))
        if mask & BOOLEAN:
            parts.append(Simple("boolean"))
        if mask & _NUMBER == FRACTIONAL:
            raise SchemaError("numbers that are no integers are not supported", pointer=atoms[0].pointer)
        if mask & _NUMBER:
            parts.extend(numbers(atoms, integer=not mask & FRACTIONAL))
        if mask & STRING:
            parts.extend(self._texts(atoms))
        if mask & ARRAY:
            parts.extend(self._arrays(atoms))
        if mask & OBJECT:
            parts.extend(self._objects(atoms))
        lists = [values for node in atoms if (values := _values(node)) is not None]
        if not lists:
            yield from parts
            return
        left = [
            value
            for value in lists[0]
            if all(any(equal(value, other) for other in values) for values in lists[1:])
            and any(self._holds(part, value) for part in parts)
        ]
        if left:
            yield Values(tuple(left))

    def _texts(self, atoms: list[Node]) -> Iterator[Part]:
        low, high, patterns = _low(atoms, "minLength"), _high(atoms, "maxLength"), []
        for node in atoms:
            if "pattern" in node.value:
                patterns.append(self._pattern(node, node.value["pattern"], "pattern"))
            if "format" in node.value:
                name = node.value["format"]
                found = format_pattern(name)
                if found is None:
                    raise at(node.pointer, "format", f"{name!r} is not asserted; only {', '.join(FORMATS)} are")
                patterns.append(found)
        if high is None or low <= high:
            yield Text(low, high, tuple(dict.fromkeys(patterns)))

    def _pattern(self, node: Node, source: str, keyword: str) -> Pattern:
        found = self._patterns.get(source)
        if found is None:
            try:
                found = self._patterns[source] = Pattern.parse(source)
            except (PatternError, RecursionError) as error:
                raise at(node.pointer, keyword, f"{source[:60]!r}: {error or 'nested too deeply'}") from None
        return found

    def _arrays(self, atoms: list[Node]) -> Iterator[Part]:
        low, high = _low(atoms, "minItems"), _high(atoms, "maxItems")
        of_each = [(node, *self._items(node)) for node in atoms]
        n = max((len(prefix) for _, prefix, _ in of_each), default=0)
        prefix: list[State] = []
        for i in range(n):
            nodes = [items[i] if i < len(items) else rest for _, items, rest in of_each]
            prefix.append(frozenset(node.index for node in nodes if node is not None))
        rests = [rest for *_, rest in of_each if rest is not None]
        rest = None if any(node.value is False for node in rests) else frozenset(node.index for node in rests)
        if rest is None:
            high = n if high is None else min(high, n)
        if high is not None and low > high:
            return
        for node in atoms:
            if node.get("uniqueItems") and (high is None or high > 1):
                raise at(node.pointer, "uniqueItems", "is not supported for arrays that may have two items")
            if "contains" in node.value and (node.get("minContains") != 0 or "maxContains" in node.value):
                raise at(node.pointer, "contains", "is not supported")
        if (high is not None and high > 10_000) or low > 10_000:
            keyword = "maxItems" if low <= 10_000 else "minItems"
            node = next(node for node in atoms if node.get(keyword) is not None and node.value[keyword] > 10_000)
            raise at(node.pointer, keyword, "is not supported above 10,000")
        yield Array(tuple(prefix[:high]), rest, low, high)

    def _items(self, node: Node) -> tuple[list[Node], Node | None]:
        """The schemas of the first items, and that of the others where there is one."""
        document, value = self._document, node.value
        items = value.get("items")
        if isinstance(items, list):
            if document.draft >= 2020:
                raise at(node.pointer, "items", "is no list in draft 2020-12; use prefixItems")
            prefix, rest = [document.child(node, x, "items", i) for i, x in enumerate(items)], "additionalItems"
        elif document.draft in (6, 7, 2019):
            prefix, rest = [], "items"
        else:
            first = value.get("prefixItems", ())
            prefix, rest = [document.child(node, x, "prefixItems", i) for i, x in enumerate(first)], "items"
        if "unevaluatedItems" in value and rest not in value:
            _check_unevaluated(node, "unevaluatedItems")
            rest = "unevaluatedItems"
        return prefix, document.child(node, value[rest], rest) if rest in value else None

    def _objects(self, atoms: list[Node]) -> Iterator[Part]:
        low, high = _low(atoms, "minProperties"), _high(atoms, "maxProperties")
        names: dict[str, None] = {}
        for node in atoms:
            names |= dict.fromkeys(node.get("properties") or ())
        required = frozenset(name for node in atoms for name in node.get("required") or ())
        names |= dict.fromkeys(name for node in atoms for name in node.get("required") or ())
        if len(names) > _MAX_NAMES:
            raise SchemaError(f"an object with more than {_MAX_NAMES} properties", pointer=atoms[0].pointer)
        patterns: dict[str, Pattern] = {}
        for node in atoms:
            for source in node.get("patternProperties") or ():
                patterns[source] = self._pattern(node, source, "patternProperties")
        filters = [node for node in atoms if "propertyNames" in node.value]
        name_state = frozenset(
            self._document.child(node, node.value["propertyNames"], "propertyNames").index for node in filters
        )
        allowed = self._allowed_names(filters, name_state) if filters else None
        if isinstance(allowed, Values):
            names |= dict.fromkeys(name for name in allowed.values if isinstance(name, str))
        properties: dict[str, State] = {}
        absent = set()
        for name in names:
            matched = [source for source, pattern in patterns.items() if pattern.matches(name)]
            nodes = [x for node in atoms for x in self._property(node, name, matched)]
            refused = filters and not any(self._holds(part, name) for part in self.of(name_state))
            if refused or any(node.value is False for node in nodes):
                absent.add(name)
            else:
                properties[name] = frozenset(node.index for node in nodes)
        if required & absent:
            return
        regions: list[tuple[Pattern, State | None]] = []
        for source, pattern in patterns.items():
            nodes = [x for node in atoms for x in self._property(node, None, [source])]
            regions.append((pattern, _state_or_none(nodes)))
        rest = _state_or_none([x for node in atoms for x in self._property(node, None, [])])
        if isinstance(allowed, Values) or allowed is False:
            rest, regions = None, []
        elif isinstance(allowed, Pattern) and rest is not None:
            regions, rest = [(allowed, rest)], None
        if len(regions) > 1 and all(state == regions[0][1] for _, state in regions):
            regions = [(Pattern.any_of([pattern for pattern, _ in regions]), regions[0][1])]
        found = Object(properties, required, frozenset(absent), tuple(regions), rest, low, high)
        yield from self._counted(atoms, found)

    def _property(self, node: Node, name: str | None, matched: list[str]) -> Iterator[Node]:
        """The schemas of a node for a property that matches these patterns; ``name`` None is in no ``properties``."""
        document, value = self._document, node.value
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
            _check_unevaluated(node, "unevaluatedProperties")
            yield document.child(node, value["unevaluatedProperties"], "unevaluatedProperties")

    def _allowed_names(self, filters: list[Node], state: State) -> Pattern | Values | bool:
        """The names that ``propertyNames`` leaves: True for all, False for none."""
        texts = [part for part in self.of(state) if isinstance(part, (Text, Values))]
        if not texts:
            return False
        if all(isinstance(part, Values) for part in texts):
            return Values(tuple(value for part in texts if isinstance(part, Values) for value in part.values))
        part = texts[0]
        patterned = [node for node in filters if node.value["propertyNames"] is not True]
        if len(texts) == 1 and isinstance(part, Text):
            bounded = part.low > 0 or part.high is not None
            if not bounded and not part.patterns:
                return True
            if bounded + len(part.patterns) == 1:
                return part.patterns[0] if part.patterns else Pattern.lengths(part.low, part.high)
        raise at(patterned[0].pointer, "propertyNames", "is not supported beyond one pattern, one length or an enum")

    def _counted(self, atoms: list[Node], part: Object) -> Iterator[Part]:
        """The object without bounds on the number of properties that the engine would not keep to."""
        low, high = part.low, part.high
        closed = part.rest is None and not any(state is not None for _, state in part.patterns)
        if low <= len(part.required):
            low = 0
        if closed and high is not None and high >= len(part.properties):
            high = None
        if (high is not None and high < len(part.required)) or (closed and low > len(part.properties)):
            return
        if not low and high is None:
            yield _replace_counts(part, 0, None)
            return
        optional = [name for name in part.properties if name not in part.required]
        keyword = "minProperties" if low else "maxProperties"
        node = next((node for node in atoms if keyword in node.value), atoms[0])
        if optional and part.patterns:
            raise at(node.pointer, keyword, "is not supported beside patternProperties and optional properties")
        if high is None and low == len(part.required) + 1:
            # At least one more: for each optional property, those objects of which it is the first.
            for i, name in enumerate(optional):
                yield _with(part, {name}, set(optional[:i]), 0, None)
            if not closed:
                yield _with(part, set(), set(optional), low, None)
            return
        if len(optional) > _MAX_SUBSETS:
            raise at(node.pointer, keyword, f"is not supported beside more than {_MAX_SUBSETS} optional properties")
        for bits in range(1 << len(optional)):
            chosen = {name for i, name in enumerate(optional) if bits >> i & 1}
            n = len(part.required) + len(chosen)
            if (high is not None and n > high) or (closed and n < low):
                continue
            if low > n + 1:
                # The engine counts a name twice that comes twice.
                raise at(node.pointer, keyword, "is not supported where it asks for two properties without a name")
            yield _with(part, chosen, set(optional) - chosen, low if low > n else 0, None if closed else high)

    # -- values

    def _holds(self, part: Part, value: Any) -> bool:
        """Whether a value of the schema itself belongs to a part."""
        if isinstance(part, Values):
            return any(equal(value, other) for other in part.values)
        if isinstance(part, Simple):
            return value is None if part.type == "null" else isinstance(value, bool)
        if isinstance(part, Number):
            return _is_number(value) and part.holds(number(value))
        if isinstance(part, Text):
            return (
                isinstance(value, str)
                and part.low <= len(value) <= (math.inf if part.high is None else part.high)
                and all(pattern.matches(value) for pattern in part.patterns)
            )
        if isinstance(part, Array):
            return isinstance(value, list) and self._array_holds(part, value)
        return isinstance(value, dict) and self._object_holds(part, value)

    def holds(self, state: State | None, value: Any) -> bool:
        """Whether a value belongs to a state."""
        return state is not None and any(self._holds(part, value) for part in self.of(state))

    def _array_holds(self, part: Array, value: list[Any]) -> bool:
        if not part.low <= len(value) <= (math.inf if part.high is None else part.high):
            return False
        states = [*part.prefix, *[part.rest] * (len(value) - len(part.prefix))]
        return all(self.holds(state, item) for state, item in zip(states, value, strict=False))

    def _object_holds(self, part: Object, value: dict[str, Any]) -> bool:
        if not part.required <= value.keys() or part.absent & value.keys():
            return False
        if not part.low <= len(value) <= (math.inf if part.high is None else part.high):
            return False
        for name, inner in value.items():
            if name in part.properties:
                states: list[State | None] = [part.properties[name]]
            else:
                states = [state for pattern, state in part.patterns if pattern.matches(name)] or [part.rest]
            if not all(self.holds(state, inner) for state in states):
                return False
        return True


def equal(a: Any, b: Any) -> bool:
    """Equality of JSON: numbers by value, true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def _replace_counts(part: Object, low: int, high: int | None) -> Object:
    return Object(part.properties, part.required, part.absent, part.patterns, part.rest, low, high)


def _with(part: Object, chosen: set[str], absent: set[str], low: int, high: int | None) -> Object:
    properties = {name: state for name, state in part.properties.items() if name not in absent}
    return Object(properties, part.required | chosen, part.absent | absent, part.patterns, part.rest, low, high)


def _state_or_none(nodes: list[Node]) -> State | None:
    return None if any(node.value is False for node in nodes) else frozenset(node.index for node in nodes)


def _check_unevaluated(node: Node, keyword: str) -> None:
    """Alone, it means the same as the keyword for additional ones."""
    for other in ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "dependencies", "contains"):
        if other in node.value:
            raise at(node.pointer, keyword, f"is not supported beside {other!r}")


def _values(node: Node) -> list[Any] | None:
    values = node.get("enum")
    if "const" in node.value:
        const = node.value["const"]
        return [const] if values is None else [const for value in values[:] if equal(value, const)][:1]
    return values if values is None else list(values)


def _type_of(value: Any) -> int:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, (int, float)):
        return INTEGER if value == int(value) else FRACTIONAL
    return STRING if isinstance(value, str) else ARRAY if isinstance(value, list) else OBJECT


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _low(atoms: list[Node], keyword: str) -> int:
    return max((int(node.value[keyword]) for node in atoms if keyword in node.value), default=0)


def _high(atoms: list[Node], keyword: str) -> int | None:
    return min((int(node.value[keyword]) for node in atoms if keyword in node.value), default=None)


__all__ = ["Array", "Object", "Part", "Parts", "Simple", "State", "Text", "Values", "equal"]
