"""The keywords of JSON Schema and their values, which are checked before anything is compiled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_cffi.errors import SchemaError

DRAFTS = {
    "json-schema.org/draft/2020-12/schema": 2020,
    "json-schema.org/draft/2019-09/schema": 2019,
    "json-schema.org/draft-07/schema": 7,
    "json-schema.org/draft-06/schema": 6,
    "json-schema.org/draft-04/schema": 4,
    "json-schema.org/schema": 0,
}
"""The drafts by their ``$schema``, without ``http://`` or ``https://`` and what may stand at the end. 0 is any."""

_SINCE = {
    "const": 6, "contains": 6, "propertyNames": 6, "if": 7, "then": 7, "else": 7, "dependentRequired": 2019,
    "dependentSchemas": 2019, "unevaluatedItems": 2019, "unevaluatedProperties": 2019, "minContains": 2019,
    "maxContains": 2019, "$anchor": 2019, "$recursiveRef": 2019, "prefixItems": 2020, "$dynamicRef": 2020,
    "$dynamicAnchor": 2020,
}  # fmt: skip
"""Keywords that an older draft does not know: there they are annotations."""
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

ANNOTATIONS = frozenset(
    {
        "$comment", "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
        "contentMediaType", "contentEncoding", "contentSchema", "discriminator", "$schema", "$id", "$anchor", "id",
        "$dynamicAnchor", "$recursiveAnchor", "$vocabulary",
    }
)  # fmt: skip
"""What says something about a value without restricting it. Names that begin with ``x-`` count as well."""

_ONE = {
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_MAPS = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
_COUNTS = {
    "maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems", "minLength", "minProperties",
}  # fmt: skip
_NUMBERS = {"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"}
_TEXTS = {
    "$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef", "$ref", "$schema", "format", "pattern",
}  # fmt: skip
_OTHERS = {"const", "dependencies", "dependentRequired", "enum", "required", "type", "uniqueItems"}
KNOWN = _ONE | _LISTS | _MAPS | _COUNTS | _NUMBERS | _TEXTS | _OTHERS
"""Every keyword that restricts a value, or names or refers to a schema."""


def at(pointer: str, keyword: str, message: str) -> SchemaError:
    """Return the error for a keyword at a place of the schema."""
    return SchemaError(message, pointer=pointer, keyword=keyword)


def pointer_to(pointer: str, *tokens: str | int) -> str:
    """Return the JSON pointer of something further down."""
    return pointer + "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def as_json(schema: Any) -> Any:
    """Return a copy of the schema made of JSON's own types; :class:`SchemaError` for what is none."""
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        text.encode()
        _check_keys(schema)
        return json.loads(text)
    except UnicodeEncodeError as error:
        raise _no_json(schema, f"holds a lone surrogate: {error.object[error.start]!r}") from None
    except RecursionError:
        raise SchemaError("the schema is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise _no_json(schema, f"holds what is no JSON: {error}") from None


def _no_json(schema: Any, message: str) -> SchemaError:
    """The error for a value that JSON does not have, with its place; "the schema ..." where it stands under none."""
    todo: list[tuple[Any, tuple[str | int, ...]]] = [(schema, ())]
    seen: set[int] = set()
    while todo:
        value, path = todo.pop()
        if id(value) in seen:
            continue  # such as what holds itself
        if isinstance(value, (dict, list, tuple)):
            seen.add(id(value))
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            todo += [(inner, (*path, key)) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            todo += [(inner, (*path, i)) for i, inner in enumerate(value)]
        elif not _is_json(value):
            place = _last_keyword(path)
            if place is not None:
                return at(pointer_to("", *path[:place]), str(path[place]), message)
    return SchemaError(f"the schema {message}")


def _last_keyword(path: Sequence[str | int]) -> int | None:
    """Where in a path from the top the last keyword stands under which there is no further schema."""
    i, place = 0, None
    while i < len(path):
        token, place = path[i], i
        listed = token == "items" and isinstance(next(iter(path[i + 1 :]), None), int)
        if token in _MAPS or token in _LISTS or token == "dependencies" or listed:
            i += 2
        elif token in _ONE:
            i += 1
        else:
            break
    return place


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        _check_keys(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} of an object must be a string")
            _check_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keys(inner)


def subschemas(value: dict[str, Any], pointer: str) -> Iterator[tuple[Any, str]]:
    """Yield the schemas directly inside one, with their pointers."""
    for keyword, inner in value.items():
        place = pointer_to(pointer, keyword)
        if keyword in _ONE and not (keyword == "items" and isinstance(inner, list)):
            yield inner, place
        elif keyword in _LISTS or keyword == "items":
            yield from ((item, pointer_to(place, i)) for i, item in enumerate(inner))
        elif keyword in _MAPS:
            yield from ((item, pointer_to(place, name)) for name, item in inner.items())
        elif keyword == "dependencies":
            yield from ((x, pointer_to(place, name)) for name, x in inner.items() if not isinstance(x, list))


def draft_of(value: Any, pointer: str = "") -> int:
    """Return the draft that ``$schema`` names; 0 without one. Raises :class:`SchemaError` for an unknown one."""
    if not isinstance(value, dict) or "$schema" not in value:
        return 0
    name = value["$schema"]
    if not isinstance(name, str):
        raise at(pointer, "$schema", f"needs a string, not {_short(name)}")
    plain = name.strip().rstrip("#/")
    for scheme in ("https://", "http://"):
        plain = plain.removeprefix(scheme)
    if plain not in DRAFTS:
        raise at(pointer, "$schema", f"must name a supported draft ({', '.join(DRAFTS)}), not {name!r}")
    return DRAFTS[plain]


def forget_newer(value: dict[str, Any], draft: int) -> None:
    """Delete the keywords that the draft does not know; 0 knows all."""
    if draft:
        for keyword in [keyword for keyword in value if _SINCE.get(keyword, 0) > draft]:
            del value[keyword]


def check(value: Any, pointer: str, *, draft: int = 0, strict: bool = False) -> None:
    """Raise :class:`SchemaError` unless ``value`` is a schema as far as its own keywords go.

    Keywords that no draft knows are annotations, which ``strict`` refuses.
    """
    if isinstance(value, bool):
        return
    if not isinstance(value, dict):
        raise SchemaError(f"a schema is an object or a boolean, not {_short(value)}", pointer=pointer)
    for keyword, inner in value.items():
        if _SINCE.get(keyword, 0) > draft > 0:
            problem = "is not known to the draft that $schema names" if strict else ""
        elif keyword in KNOWN:
            problem = _problem(keyword, inner, draft)
        else:
            unknown = keyword not in ANNOTATIONS and not keyword.startswith("x-")
            problem = "is not a keyword of JSON Schema; without strict=True it is an annotation" * (strict and unknown)
        if problem:
            raise at(pointer, keyword, problem)


def _problem(keyword: str, inner: Any, draft: int) -> str:
    if keyword in _ONE:
        if keyword == "items" and isinstance(inner, list):
            return ""
        return "" if isinstance(inner, (dict, bool)) else f"needs a schema, not {_short(inner)}"
    if keyword in _LISTS:
        if not isinstance(inner, list) or not inner:
            return f"needs a list of schemas, not {_short(inner)}"
        return _no_schema(enumerate(inner))
    if keyword in _MAPS or keyword in ("dependencies", "dependentRequired"):
        if not isinstance(inner, dict):
            return f"needs an object, not {_short(inner)}"
        if keyword in _MAPS:
            return _no_schema(inner.items())
        lists = [x for x in inner.values() if keyword == "dependentRequired" or isinstance(x, list)]
        bad = [x for x in lists if not _names(x)]
        return f"needs lists of names, not {_short(bad[0])}" if bad else ""
    if keyword in _COUNTS:
        return "" if _is_count(inner) else f"needs an integer of 0 or more, not {_short(inner)}"
    if keyword in _NUMBERS:
        if isinstance(inner, bool) and keyword.startswith("exclusive") and draft in (0, 4):
            return ""
        if not _is_number(inner) or (keyword == "multipleOf" and inner <= 0):
            return f"needs a {'positive ' * (keyword == 'multipleOf')}number, not {_short(inner)}"
        return ""
    if keyword in _TEXTS:
        return "" if isinstance(inner, str) else f"needs a string, not {_short(inner)}"
    if keyword == "type":
        types = inner if isinstance(inner, list) else [inner]
        bad = [x for x in types if x not in TYPES] if types else [inner]
        return f"needs one of {', '.join(TYPES)}, or a list of them, not {_short(bad[0])}" if bad else ""
    if keyword == "required":
        return "" if _names(inner) else f"needs a list of names, not {_short(inner)}"
    if keyword == "enum":
        return "" if isinstance(inner, list) and inner else f"needs a list of values, not {_short(inner)}"
    if keyword == "uniqueItems":
        return "" if isinstance(inner, bool) else f"needs true or false, not {_short(inner)}"
    return ""


def _no_schema(items: Iterable[tuple[object, Any]]) -> str:
    bad = next((pair for pair in items if not isinstance(pair[1], (dict, bool))), None)
    return "" if bad is None else f"needs schemas, not {_short(bad[1])} at {bad[0]!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = [
    "ANNOTATIONS",
    "DRAFTS",
    "KNOWN",
    "TYPES",
    "as_json",
    "at",
    "check",
    "draft_of",
    "forget_newer",
    "pointer_to",
    "subschemas",
]
