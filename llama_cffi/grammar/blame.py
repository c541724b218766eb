"""Finds the keyword for which a schema is refused, if the error itself does not name it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.keywords import KNOWN, pointer_to, subschemas

_MAX_TRIES = 200
_MAX_SECONDS = 1.0
_NAMING = frozenset({"$anchor", "$defs", "$dynamicAnchor", "$id", "$schema", "definitions"})
"""Keywords that only name schemas: without one, what refers to it would fail for another reason."""

Path = tuple[str | int, ...]


def with_place(error: SchemaError, schema: Any, compiled: Callable[[Any], object]) -> SchemaError:
    """Return the error with the pointer and the keyword of a place that it is raised for.

    That is a keyword without which ``compiled`` takes the schema, or raises for something else, as deep inside as there
    is one. The error is returned as it is when it has a keyword, or none is found in some tries.
    """
    if error.keyword or not isinstance(schema, dict):
        return error
    try:
        found = _Search(schema, compiled, error.message).place()
    except RecursionError:
        found = None
    if found is None:
        return error
    path, keyword = found
    placed = type(error)(
        f"is why {error.message.removeprefix(f'schema at {error.pointer}: ')}",
        pointer=pointer_to("", *path),
        keyword=keyword,
        log=error.log,
    )
    placed.__cause__ = error.__cause__
    return placed


class _Search:
    def __init__(self, schema: dict[str, Any], compiled: Callable[[Any], object], message: str) -> None:
        self._schema = schema
        self._compiled = compiled
        self._message = message
        self._left = _MAX_TRIES
        self._end = time.monotonic() + _MAX_SECONDS

    def place(self) -> tuple[Path, str] | None:
        found = self._below(())
        if found is not None and found[1] not in ("$ref", "$dynamicRef", "$recursiveRef"):
            return found
        # It is inside of what is referred to, or several keywords are refused for want of each other.
        inner = ((path, keyword) for path in _schemas(self._schema) for keyword in self._keywords(path))
        return next((place for place in inner if self._passes_without(*place)), found) or self._last()

    def _below(self, path: Path) -> tuple[Path, str] | None:
        """From the top down: the keyword of a schema without which all is well, and then the one inside of it."""
        for keyword in self._keywords(path):
            if self._passes_without(path, keyword):
                here = _at(self._schema, path)
                for inner, place in subschemas({keyword: here[keyword]}, ""):
                    if isinstance(inner, dict):
                        found = self._below((*path, *_tokens(here, place)))
                        if found is not None:
                            return found
                return path, keyword
        return None

    def _last(self) -> tuple[Path, str] | None:
        """The keyword at the top with which the last reason goes, when they go one after the other."""
        left = copy.deepcopy(self._schema)
        for keyword in self._keywords(()):
            del left[keyword]
            if self._passes(left):
                return (), keyword
        return None

    def _keywords(self, path: Path) -> list[str]:
        # Without its type, a schema takes values of others, whatever the reason was.
        names = [one for one in _at(self._schema, path) if one in KNOWN - _NAMING]
        return sorted(names, key=lambda one: one == "type")

    def _passes_without(self, path: Path, keyword: str) -> bool:
        left = copy.deepcopy(self._schema)
        del _at(left, path)[keyword]
        return self._passes(left)

    def _passes(self, schema: Any) -> bool:
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._end:
            return False
        try:
            self._compiled(schema)
        except SchemaError as error:
            return error.message != self._message
        return True


def _schemas(root: dict[str, Any]) -> Iterator[Path]:
    """The paths to all schemas that are objects, those inside before those around them."""
    todo: list[tuple[Path, bool]] = [((), False)]
    while todo:
        path, seen = todo.pop()
        if seen:
            yield path
            continue
        here = _at(root, path)
        todo.append((path, True))
        todo.extend(
            ((*path, *_tokens(here, place)), False) for inner, place in subschemas(here, "") if isinstance(inner, dict)
        )


def _at(schema: Any, path: Path) -> Any:
    for token in path:
        schema = schema[token]
    return schema


def _tokens(here: Any, pointer: str) -> Path:
    """The tokens of a pointer, those of lists as numbers."""
    out: list[str | int] = []
    for part in pointer.split("/")[1:]:
        out.append(int(part) if isinstance(here, list) else part.replace("~1", "/").replace("~0", "~"))
        here = here[out[-1]]
    return tuple(out)


__all__ = ["with_place"]
