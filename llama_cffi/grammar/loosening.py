"""Schemas without the keywords that cannot be enforced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.form import UnsatisfiableError
from llama_cffi.grammar.keywords import as_json

_MAX_KEYWORDS = 100
_TURNED = ("not", "if", "oneOf")
"""Keywords below which a schema that allows more makes the whole allow less."""
_BESIDE = {
    "properties": ("additionalProperties", "unevaluatedProperties"),
    "patternProperties": ("additionalProperties", "unevaluatedProperties"),
    "prefixItems": ("items", "unevaluatedItems"),
    "items": ("additionalItems", "unevaluatedItems"),
}
"""Keywords that would forbid more once the one that they refer to is gone."""

T = TypeVar("T")


def loosen(schema: Any, compiled: Callable[[Any], T]) -> tuple[T, tuple[SchemaError, ...]]:
    """Return what ``compiled`` makes of the schema without the keywords that it raises :class:`SchemaError` for.

    Each keyword is taken away at the place that its error names, in a way that allows more values and not fewer; the
    errors are returned. An error that names no keyword is raised.
    """
    left = as_json(schema)
    errors: list[SchemaError] = []
    while True:
        try:
            return compiled(left), tuple(errors)
        except UnsatisfiableError:
            raise
        except SchemaError as error:
            if len(errors) >= _MAX_KEYWORDS or not _loosened(left, error):
                raise
            errors.append(error)


def _loosened(schema: Any, error: SchemaError) -> bool:
    """Take a keyword away, in place; whether it was there."""
    here = schema
    path = [token.replace("~1", "/").replace("~0", "~") for token in error.pointer.split("/")[1:]]
    for i, token in enumerate([*path, error.keyword]):
        is_keyword = isinstance(here, dict) and (i == 0 or path[i - 1] not in ("properties", "$defs", "definitions"))
        if is_keyword and token in _TURNED and token in here:
            value = here.pop(token)
            if token == "oneOf" and i < len(path):
                # At least one of them is still asked for.
                here["allOf"] = [*here.get("allOf", []), {"anyOf": value}]
            return True
        if i == len(path):
            break
        try:
            here = here[int(token)] if isinstance(here, list) else here[token]
        except (LookupError, ValueError, TypeError):
            return False
    if not isinstance(here, dict) or error.keyword not in here:
        return False
    del here[error.keyword]
    for keyword in _BESIDE.get(error.keyword, ()):
        here.pop(keyword, None)
    return True


__all__ = ["loosen"]
