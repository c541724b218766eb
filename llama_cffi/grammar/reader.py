"""The reader of JSON Schema: for a set of schemas that must all hold, the shapes that they allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.arrays import array_shapes
from llama_cffi.grammar.document import REFERENCES, Document, Node
from llama_cffi.grammar.equality import equal, is_number
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.negation import negations
from llama_cffi.grammar.numeric import MAX_LISTED, Number, numbers
from llama_cffi.grammar.objects import object_shapes
from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.shapes import Array, Object, Shape, Simple, State, Values
from llama_cffi.grammar.strings import text_shapes
from llama_cffi.grammar.validation import Validator

NULL, BOOLEAN, INTEGER, FRACTIONAL, STRING, ARRAY, OBJECT = (1 << i for i in range(7))
_NUMBER = INTEGER | FRACTIONAL
_ALL = (1 << 7) - 1
_MASKS = {
    "null": NULL, "boolean": BOOLEAN, "integer": INTEGER, "number": _NUMBER, "fraction": FRACTIONAL, "string": STRING,
    "array": ARRAY, "object": OBJECT,
}  # fmt: skip
_CHOOSING = ("anyOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas", "dependencies")
"""Keywords that leave a choice."""
_MAX_BRANCHES = 1_000
_MAX_ALL_BRANCHES = 10_000
_MAX_DEPTH = 120


@dataclass
class _Choice:
    """Schemas of which one list must hold."""

    options: list[list[Node]] = field(default_factory=list)


class SchemaReader:
    """Reads a document state by state. Raises :class:`SchemaError` for what the engine could not enforce."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._validator = Validator(document)
        self._shapes: dict[tuple[State, bool], tuple[Shape, ...]] = {}
        self._branches_made = 0
        self._loose = False
        """Whether ``oneOf`` counts as ``anyOf``: enough to see that nothing is left, and free of loops."""

    def matches(self, node: Node, value: Any) -> bool:
        """Return whether a value satisfies a schema."""
        return self._validator.matches(node, value)

    def pattern(self, node: Node, source: str, keyword: str) -> Pattern:
        """Return the texts of a regular expression that stands under a keyword."""
        return self._validator.pattern(node, source, keyword)

    def shapes(self, state: State) -> tuple[Shape, ...]:
        """Return what the state leaves: the union of these."""
        found = self._shapes.get((state, self._loose))
        if found is None:
            nodes = [self.document.nodes[index] for index in sorted(state)]
            listed = self._listed(nodes)
            unique = {_key(shape): shape for shape in (self._read(nodes) if listed is None else listed)}
            found = tuple(unique.values())
            self._shapes[state, self._loose] = found
        return found

    # -- from a state to conjunctions: all applicators that stand in place are gone

    def _read(self, nodes: list[Node]) -> Iterator[Shape]:
        for atoms, mask in self._conjunctions(list(nodes), {}, _ALL, 0):
            yield from self._shapes_of(atoms, mask)

    def _listed(self, nodes: list[Node]) -> list[Shape] | None:
        """The values that an enum leaves, found by validation, whatever stands beside it; None without an enum."""
        todo, seen = list(nodes), set()
        while todo:
            node = todo.pop(0)
            if node.index in seen or isinstance(node.value, bool):
                continue
            seen.add(node.index)
            values = None if self.document.ref_alone and "$ref" in node.value else _values(node)
            if values is not None:
                left = [value for value in values if all(self.matches(other, value) for other in nodes)]
                return [Values(tuple(left))] if left else []
            todo.extend(self._conjuncts(node))
        return None

    def _conjuncts(self, node: Node) -> list[Node]:
        """The schemas that must hold where the node does, without choices."""
        out = [self.document.target(node, keyword) for keyword in REFERENCES if keyword in node.value]
        if self.document.ref_alone and out:
            return out
        out.extend(self.document.child(node, x, "allOf", i) for i, x in enumerate(node.value.get("allOf", ())))
        return out

    def _conjunctions(
        self, todo: list[Node | _Choice], atoms: dict[int, Node], mask: int, depth: int
    ) -> Iterator[tuple[list[Node], int]]:
        if depth > _MAX_DEPTH:
            raise _too_many(atoms.values(), "too many choices inside each other")
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
            todo.extend(reversed(self._in_place(item, mask)))
        self._branches_made += 1
        if self._branches_made > _MAX_ALL_BRANCHES:
            raise _too_many(atoms.values(), "too many combinations of choices")
        yield list(atoms.values()), mask

    def _types(self, node: Node) -> int:
        if self.document.ref_alone and "$ref" in node.value:
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

    def _in_place(self, node: Node, mask: int) -> list[Node | _Choice]:
        """What else must hold where the node does, of the types that are left."""
        document, value = self.document, node.value
        out: list[Node | _Choice] = [*self._conjuncts(node)]
        if document.ref_alone and "$ref" in value:
            return out
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
        if mask & OBJECT:
            out.extend(self._dependencies(node))
        return out

    def _dependencies(self, node: Node) -> Iterator[_Choice]:
        document = self.document
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, inner in node.value.get(keyword, {}).items():
                absent = document.derived(node, {"properties": {name: False}}, ("absent", name))
                present = document.derived(node, {"type": "object", "required": [name]}, ("present", name))
                if isinstance(inner, list):
                    then = [document.derived(node, {"required": inner}, (keyword, name))]
                else:
                    then = [document.child(node, inner, keyword, name)]
                yield _Choice([[absent], [present, *then]])

    def _one_of(self, node: Node) -> _Choice:
        """An option holds, and those of the others that could hold with it do not."""
        document = self.document
        options = [document.child(node, inner, "oneOf", i) for i, inner in enumerate(node.value["oneOf"])]
        if len(options) > 200:
            raise at(node.pointer, "oneOf", "has more than 200 options")
        if self._loose:
            return _Choice([[option] for option in options])
        # What stands beside oneOf may be what keeps two options apart.
        beside = {key: inner for key, inner in node.value.items() if key not in ("oneOf", "$id", "id", "$anchor")}
        rest = document.derived(node, beside, "beside oneOf")
        together: dict[int, list[Node]] = {i: [] for i in range(len(options))}
        for i, one in enumerate(options):
            for j in range(i + 1, len(options)):
                if not self.apart(frozenset({rest.index, one.index, options[j].index})):
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

    def apart(self, state: State) -> bool:
        """Return whether schemas certainly have no value in common; False when that is not known."""
        before, self._loose = self._loose, True
        try:
            return self._empty(state, 3)
        except SchemaError:
            # What the engine could not enforce may be in common.
            return False
        finally:
            self._loose = before

    def _empty(self, state: State, depth: int) -> bool:
        return all(self._shape_empty(shape, depth) for shape in self.shapes(state))

    def _shape_empty(self, shape: Shape, depth: int) -> bool:
        if depth <= 0:
            return False
        if isinstance(shape, Object):
            return any(self._empty(shape.properties[name], depth - 1) for name in shape.required)
        if isinstance(shape, Array):
            needed = [*shape.prefix[: shape.low], *[shape.rest or frozenset()] * (shape.low > len(shape.prefix))]
            return any(self._empty(state, depth - 1) for state in needed)
        return False

    # -- from a conjunction to its shapes, some for each type

    def _shapes_of(self, atoms: list[Node], mask: int) -> Iterator[Shape]:
        if self.document.ref_alone:
            atoms = [node for node in atoms if "$ref" not in node.value]
        lists = [values for node in atoms if (values := _values(node)) is not None]
        if lists:
            left = [value for value in lists[0] if all(self.matches(node, value) for node in atoms)]
            if left:
                yield Values(tuple(left))
            return
        if mask & NULL:
            yield Simple("null")
        if mask & BOOLEAN:
            yield Simple("boolean")
        if mask & _NUMBER:
            found = list(numbers(atoms, integer=not mask & FRACTIONAL))
            if mask & _NUMBER == FRACTIONAL and any(_has_fractions(shape) for shape in found):
                raise at(atoms[0].pointer, "type", "is not supported for numbers that must not be integers")
            for shape in found if mask & INTEGER else []:
                listed = shape.listed(MAX_LISTED) if shape.uneven else None
                yield shape if listed is None else Values(tuple(listed))
        if mask & STRING:
            yield from text_shapes(self, atoms)
        if mask & ARRAY:
            yield from array_shapes(self, atoms)
        if mask & OBJECT:
            yield from object_shapes(self, atoms)


def _too_many(atoms: Iterable[Node], what: str) -> SchemaError:
    """The error for schemas that must hold together, at one of those that leave a choice."""
    for node in atoms:
        for keyword in _CHOOSING:
            if keyword in node.value:
                return at(node.pointer, keyword, f"makes {what}")
    return SchemaError(f"the schema has {what}")


def _key(shape: Shape) -> object:
    """What equal shapes have in common, to be hashed."""
    return (tuple(shape.properties.items()), replace(shape, properties={})) if isinstance(shape, Object) else shape


def _has_fractions(shape: Number) -> bool:
    return shape.multiple_of is None or shape.multiple_of.denominator != 1


def _values(node: Node) -> list[Any] | None:
    values = node.get("enum")
    if "const" in node.value:
        const = node.value["const"]
        return [const] if values is None else [const for value in values if equal(value, const)][:1]
    return values if values is None else list(values)


def _type_of(value: Any) -> int:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if is_number(value):
        return INTEGER if value == int(value) else FRACTIONAL
    return STRING if isinstance(value, str) else ARRAY if isinstance(value, list) else OBJECT


__all__ = ["SchemaReader"]
