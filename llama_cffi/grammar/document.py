"""The places of a schema document, and what its references mean."""

from __future__ import annotations

from typing import Any

import referencing
import referencing.exceptions
import referencing.jsonschema

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.keywords import as_json, at, check, draft_of, forget_newer, pointer_to, subschemas

_SPECIFICATIONS = {
    0: referencing.jsonschema.DRAFT202012,
    4: referencing.jsonschema.DRAFT4,
    6: referencing.jsonschema.DRAFT6,
    7: referencing.jsonschema.DRAFT7,
    2019: referencing.jsonschema.DRAFT201909,
    2020: referencing.jsonschema.DRAFT202012,
}
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Node:
    """One schema at one place; ``index`` stands for it in sets.

    ``pointer`` is where it stands in the document; for one that was derived (a negation) where it came from.
    """

    __slots__ = ("index", "pointer", "resolver", "value")

    def __init__(self, index: int, value: Any, pointer: str, resolver: referencing._core.Resolver[Any]) -> None:
        self.index = index
        self.value = value
        self.pointer = pointer
        self.resolver = resolver

    def get(self, keyword: str) -> Any:
        return self.value.get(keyword)


class Document:
    """A schema, checked, with its identifiers and anchors.

    ``draft`` (2020, 2019, 7, 6 or 4) is for schemas without ``$schema``. ``strict`` refuses keywords that no draft
    knows, which are annotations otherwise. Raises :class:`SchemaError` for what is not a schema, for an unknown
    ``$schema``, and for identifiers or anchors that two places share.
    """

    def __init__(self, schema: Any, *, draft: int = 0, strict: bool = False) -> None:
        value = as_json(schema)
        self.draft = draft_of(value) or draft
        self.strict = strict
        self.check(value, "")
        self.nodes: list[Node] = []
        self._known: dict[object, Node] = {}
        self._pointers: dict[int, str] = {}
        self._checked: set[int] = set()
        self._dynamic: list[object] = []
        self._specification = _SPECIFICATIONS[self.draft]
        self._value = value
        self._walk(value)
        self._locate(value)
        resource = self._specification.create_resource(value)
        resolver = referencing.Registry().resolver_with_root(resource)
        self.root = self._node(value, "", resolver)

    @property
    def ref_alone(self) -> bool:
        """Whether the draft ignores what stands beside ``$ref``."""
        return 0 < self.draft < 2019

    def check(self, value: Any, pointer: str) -> None:
        """Raise :class:`SchemaError` unless ``value`` is a schema as far as its own keywords go."""
        check(value, pointer, draft=self.draft, strict=self.strict)

    def child(self, node: Node, value: Any, *tokens: str | int) -> Node:
        """Return the node of a schema inside another."""
        known = self._known.get(_key(value))
        if known is not None:
            return known
        resolver = node.resolver
        if isinstance(value, dict) and id(value) in self._pointers:
            resolver = resolver.in_subresource(self._specification.create_resource(value))
        return self._node(value, pointer_to(node.pointer, *tokens), resolver)

    def derived(self, node: Node, value: Any, key: object) -> Node:
        """Return a schema made from another, which errors are said about; the same for the same ``key``."""
        known = self._known.get((node.index, "derived", key))
        if known is None:
            known = self._known[node.index, "derived", key] = Node(len(self.nodes), value, node.pointer, node.resolver)
            self.nodes.append(known)
            self._known[_key(value)] = known
        return known

    def target(self, node: Node, keyword: str = "$ref") -> Node:
        """Return what a reference of a node means. Raises :class:`SchemaError` for what this document does not hold."""
        reference = node.value[keyword]
        if keyword != "$ref" and len(self._dynamic) > 1:
            raise at(node.pointer, keyword, "is not supported where more than one place is marked for it")
        try:
            found = node.resolver.lookup(reference)
        except (referencing.exceptions.Unresolvable, LookupError, ValueError, TypeError, AttributeError):
            raise at(
                node.pointer, keyword, f"points outside of the schema, or at nothing in it: {reference!r}"
            ) from None
        value = found.contents
        known = self._known.get(_key(value))
        return known or self._node(value, self._pointers.get(id(value), reference), found.resolver)

    def _node(self, value: Any, pointer: str, resolver: referencing._core.Resolver[Any]) -> Node:
        pointer = self._pointers.get(id(value), pointer)
        if id(value) not in self._checked:
            self.check(value, pointer)
        node = self._known[_key(value)] = Node(len(self.nodes), value, pointer, resolver)
        self.nodes.append(node)
        return node

    def _locate(self, root: Any) -> None:
        """Remember where everything stands, also what stands under unknown keywords."""
        todo: list[tuple[Any, str]] = [(root, "")]
        while todo:
            value, pointer = todo.pop()
            if not isinstance(value, (dict, list)):
                continue
            self._pointers[id(value)] = pointer
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            todo.extend((inner, pointer_to(pointer, token)) for token, inner in pairs)

    def _walk(self, root: Any) -> None:
        """Check every schema of the document, and that none of its names is given twice."""
        todo: list[tuple[Any, str, str]] = [(root, "", "")]
        names: set[tuple[str, str]] = set()
        while todo:
            value, pointer, base = todo.pop()
            self.check(value, pointer)
            if isinstance(value, bool):
                continue
            self._checked.add(id(value))
            forget_newer(value, self.draft)
            if pointer and "$schema" in value and draft_of(value, pointer) != (self.draft or 2020):
                raise at(pointer, "$schema", "differs from that of the whole schema")
            if not (self.ref_alone and "$ref" in value):
                own = value.get("id" if self.draft == 4 else "$id")
                if isinstance(own, str) and pointer:
                    base = own if not own.startswith("#") else base
                    self._name(names, (base, own), pointer, "$id")
                for keyword in ("$anchor", "$dynamicAnchor"):
                    if isinstance(value.get(keyword), str):
                        self._name(names, (base, "#" + value[keyword]), pointer, "$id")
                if "$dynamicAnchor" in value or value.get("$recursiveAnchor") is True:
                    self._dynamic.append(pointer)
            todo.extend((inner, place, base) for inner, place in subschemas(value, pointer))

    @staticmethod
    def _name(names: set[tuple[str, str]], name: tuple[str, str], pointer: str, keyword: str) -> None:
        if name in names:
            raise SchemaError(
                f"names a second schema {name[1]!r}; a name must be unique", pointer=pointer, keyword=keyword
            )
        names.add(name)


def _key(value: Any) -> object:
    return value if isinstance(value, bool) else id(value)


__all__ = ["REFERENCES", "Document", "Node"]
