"""The places of a schema document, and what its references mean."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.keywords import DRAFTS, as_json, at, check, pointer_to, subschemas

_BASE = "http://schema.invalid/"
"""What identifiers of a schema without an absolute one are relative to."""


class Node:
    """One schema at one place; ``index`` stands for it in sets.

    ``pointer`` is where it stands in the document; for one that was derived (a negation) where it came from.
    """

    __slots__ = ("base", "index", "pointer", "value")

    def __init__(self, index: int, value: Any, pointer: str, base: str) -> None:
        self.index = index
        self.value = value
        self.pointer = pointer
        self.base = base

    def get(self, keyword: str) -> Any:
        return self.value.get(keyword)


class Document:
    """A schema, checked, with its identifiers and anchors.

    Raises :class:`SchemaError` for what is no schema, unknown keywords, an unknown ``$schema``, and identifiers or
    anchors that two places share.
    """

    def __init__(self, schema: Any, *, draft: int = 0) -> None:
        value = as_json(schema)
        check(value, "")
        self.draft = self._draft(value) or draft
        self.nodes: list[Node] = []
        self._known: dict[object, Node] = {}
        self._places: dict[str, tuple[Any, str, str]] = {}
        """Of each absolute URI: the schema, its pointer, and the base inside it."""
        self.root = self.node(value, "", self._base(value, _BASE))
        self._register(value)

    @staticmethod
    def _draft(value: Any) -> int:
        if isinstance(value, bool) or "$schema" not in value:
            return 0
        name = value["$schema"].rstrip("#")
        if name not in DRAFTS:
            raise at("", "$schema", f"names no draft that is supported: {value['$schema']!r} (not {', '.join(DRAFTS)})")
        return DRAFTS[name]

    @property
    def ref_alone(self) -> bool:
        """Whether the draft ignores what stands beside ``$ref``."""
        return 0 < self.draft < 2019

    def node(self, value: Any, pointer: str, base: str, key: object = None) -> Node:
        """The node of a place, the same each time; ``key`` names a derived one."""
        known = self._known.get(key or pointer)
        if known is None:
            known = Node(len(self.nodes), value, pointer, base)
            self.nodes.append(known)
            self._known[key or pointer] = known
        return known

    def child(self, node: Node, value: Any, *tokens: str | int) -> Node:
        """The node of a schema inside another."""
        pointer = pointer_to(node.pointer, *tokens)
        key = (node.index, tokens)
        known = self._known.get(key)
        if known is None:
            # Inside a derived node, too, a place has its own base.
            known = self._known[key] = self.node(value, pointer, self._base(value, node.base), (pointer, id(value)))
        return known

    def derived(self, node: Node, value: Any, key: object) -> Node:
        """A schema made from another, which errors are said about."""
        return self.node(value, node.pointer, node.base, (node.index, "derived", key))

    def target(self, node: Node) -> Node:
        """What ``$ref`` of a node means. Raises :class:`SchemaError` for what this document does not hold."""
        reference = node.value["$ref"]
        url, fragment = urldefrag(_join(node.base, reference))
        found = self._places.get(url + ("#" + fragment if fragment and not fragment.startswith("/") else ""))
        if found is None:
            raise at(node.pointer, "$ref", f"points outside of the schema, or at nothing in it: {reference!r}")
        value, pointer, base = found
        if fragment.startswith("/"):
            for token in unquote(fragment)[1:].split("/"):
                name = token.replace("~1", "/").replace("~0", "~")
                try:
                    value = value[int(name)] if isinstance(value, list) else value[name]
                except (LookupError, ValueError, TypeError):
                    raise at(node.pointer, "$ref", f"points at nothing: {reference!r}") from None
                pointer = pointer_to(pointer, name)
                base = self._base(value, base)
            check(value, pointer)
        return self.node(value, pointer, base, (pointer, id(value)) if pointer else None)

    def _base(self, value: Any, base: str) -> str:
        own = value.get("$id") if isinstance(value, dict) else None
        if not isinstance(own, str) or (own.startswith("#") and 0 < self.draft < 2019):
            return base
        if self.ref_alone and "$ref" in value:
            return base
        return _join(base, own)

    def _register(self, root: Any) -> None:
        todo: list[tuple[Any, str, str]] = [(root, "", self.root.base)]
        self._places[urldefrag(_BASE)[0]] = self._places[urldefrag(self.root.base)[0]] = todo[0]
        while todo:
            value, pointer, base = todo.pop()
            check(value, pointer)
            if isinstance(value, bool):
                continue
            if pointer and "$schema" in value and DRAFTS.get(value["$schema"].rstrip("#")) != (self.draft or 2020):
                raise at(pointer, "$schema", "differs from that of the whole schema")
            if not (self.ref_alone and "$ref" in value):
                names = [base] if pointer and "$id" in value else []
                if "$anchor" in value:
                    names.append(_join(base, "#" + value["$anchor"]))
                if str(value.get("$id", "")).startswith("#"):
                    names = [_join(base, value["$id"])]
                for name in names:
                    url, fragment = urldefrag(name)
                    name = url + ("#" + fragment if fragment else "")
                    if name in self._places:
                        raise SchemaError(f"two schemas are called {name!r}", pointer=pointer, keyword="$id")
                    self._places[name] = value, pointer, base
            for inner, place in subschemas(value, pointer):
                todo.append((inner, place, self._base(inner, base)))


def _join(base: str, reference: str) -> str:
    """``urljoin`` that knows what a fragment is relative to a URN."""
    return urldefrag(base)[0] + reference if reference.startswith("#") else urljoin(base, reference)


__all__ = ["Document", "Node"]
