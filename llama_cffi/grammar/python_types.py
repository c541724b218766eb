"""Types of Python as JSON Schemas of the texts that pydantic makes instances of."""

from __future__ import annotations

import datetime
import inspect
import json
import string
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from llama_cffi._util.shown import shown
from llama_cffi.errors import SchemaError
from llama_cffi.grammar.formats import FORMATS, source_of
from llama_cffi.grammar.keywords import as_json

_CACHE_SIZE = 64
_YEARS = "^([1-9]|0[1-9]|00[1-9]|000[1-9])"
"""Python's dates begin in the year 1."""
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_ZONE = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_HOST = r"([a-z](-?[a-z0-9]){0,30}\.)+[a-z]{2,8}"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}"
_IPV4_NETWORK = (
    rf"({_IPV4}(/32)?|{_BYTE}\.{_BYTE}\.{_BYTE}\.0/24|{_BYTE}\.{_BYTE}\.0\.0/16|{_BYTE}\.0\.0\.0/8|0\.0\.0\.0/0)"
)
_IPV6 = source_of("ipv6")
_IPV6_PREFIX = "(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?"
_HEX = "[0-9a-f]"

_LOOKING_OUTSIDE = {
    "PathType.validate_new": "NewPath",
    "import_string": "ImportString",
}
_TEXT = "x-text"
"""Marks the schemas of str among the strings."""
_BYTE_SIZE = r"^\s*(\d*\.?\d+)\s*(\w+)?"
"""pydantic's pattern of ByteSize, which takes more than it reads."""
_BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits
# Of three bytes below 128, the highest bits are 0, which are bits of the first three letters.
_ASCII_64 = "".join(f"[{''.join(letter for i, letter in enumerate(_BASE64) if not i & bit)}]" for bit in (32, 8, 2))

_PATTERNS = {
    "base64": "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{3}=|[A-Za-z0-9+/][AQgw]==)?",
    "base64url": "([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{3}=|[A-Za-z0-9_-][AQgw]==)?",
    "base64text": f"({_ASCII_64}[A-Za-z0-9])*",
    "email": rf"[a-z0-9_]+([.+-][a-z0-9_]+)*@{_HOST}",
    "name-email": rf"[a-z0-9_]+([.+-][a-z0-9_]+)*@{_HOST}",
    "fraction": "-?(0|[1-9][0-9]{0,17})/[1-9][0-9]{0,17}",
    "ipv4network": _IPV4_NETWORK,
    "ipv4interface": rf"{_IPV4}(/([0-9]|[12][0-9]|3[0-2]))?",
    "ipv6network": rf"{_IPV6}(/128)?",
    "ipv6interface": rf"{_IPV6}{_IPV6_PREFIX}",
    "ipvanyaddress": rf"({_IPV4}|{_IPV6})",
    "ipvanynetwork": rf"({_IPV4_NETWORK}|{_IPV6}(/128)?)",
    "ipvanyinterface": rf"({_IPV4}(/([0-9]|[12][0-9]|3[0-2]))?|{_IPV6}{_IPV6_PREFIX})",
    **{f"uuid{n}": rf"{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}" for n in range(1, 9)},
}
"""Values of ``format`` that pydantic gives a meaning: texts that it takes, as a pattern of the whole."""

_REFUSED = {
    "file-path": "a path of a file that exists",
    "directory-path": "a path of a directory that exists",
    "json-string": "a text that holds JSON",
    "regex": "a regular expression",
    "zoneinfo": "the name of a time zone",
    "color": "the name of a color",
}
"""Values of ``format`` whose texts no grammar describes."""

_ANNOTATED = ("default", "examples", "title", "description")


def adapter_of(schema: Any) -> tuple[pydantic.TypeAdapter[Any], str]:
    """Return the adapter of a type, and the JSON text of a schema of the texts that it takes.

    Raises :class:`SchemaError` for what is not a type, and for one whose texts no grammar describes, by its name.
    """
    if inspect.isroutine(schema):
        # pydantic would make a type of its parameters, and call it with what was generated.
        raise SchemaError(f"a function is not a schema: {shown(schema)}; tools= takes functions")
    try:
        return _of_hashable_type(schema)
    except TypeError:
        return _adapted(schema)


@lru_cache(maxsize=_CACHE_SIZE)
def _of_hashable_type(schema: Any) -> tuple[pydantic.TypeAdapter[Any], str]:
    return _adapted(schema)


def _adapted(schema: Any) -> tuple[pydantic.TypeAdapter[Any], str]:
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(schema)
        found = adapter.json_schema(schema_generator=_Generator)
    except Exception as error:  # also what a type or value of the caller's raises when pydantic looks at it
        raise SchemaError(f"pydantic cannot make a JSON Schema of {shown(schema)}: {error}") from error
    return adapter, json.dumps(_relaxed(as_json(_without_annotations(found)), found))


class _Generator(GenerateJsonSchema):
    """pydantic's generator, where the schemas that it makes say less or other than what it takes."""

    def date_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": "string", "format": "date", "pattern": _years(schema)}

    def datetime_schema(self, schema: Any) -> JsonSchemaValue:
        zone = {"naive": "", "aware": _ZONE}.get(schema.get("tz_constraint"), _ZONE)
        return _all_of(f"^{source_of('date')}T{_TIME}{zone}$", _years(schema))

    def time_schema(self, schema: Any) -> JsonSchemaValue:
        zone = {"aware": _ZONE}.get(schema.get("tz_constraint"), f"{_ZONE}?")
        return {"type": "string", "pattern": f"^{_TIME}{'' if schema.get('tz_constraint') == 'naive' else zone}$"}

    def timedelta_schema(self, schema: Any) -> JsonSchemaValue:
        _refuse_bounds("timedelta", schema, ("gt", "ge", "lt", "le"))
        # A timedelta has at most 999,999,999 days.
        return {"type": "string", "format": "duration", "pattern": "^[^0-9]+([0-9]{1,5}[^0-9]+)+$"}

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        return _decimal(schema)

    def complex_schema(self, schema: Any) -> JsonSchemaValue:
        raise SchemaError("complex is not supported: JSON has no complex numbers")

    def json_schema(self, schema: Any) -> JsonSchemaValue:
        raise SchemaError("Json[...] is a text that holds JSON, which no grammar describes; ask for the type inside")

    def url_schema(self, schema: Any) -> JsonSchemaValue:
        schemes = "|".join(scheme.replace("+", "\\+") for scheme in schema.get("allowed_schemes") or ["https", "http"])
        if schemes == "file":
            return {"type": "string", "pattern": "^file://(/[a-z0-9._~-]+)+$"}
        return {"type": "string", "pattern": rf"^({schemes})://{_HOST}(:[1-9][0-9]{{0,3}})?(/[a-z0-9._~-]*)*$"} | {
            "maxLength": schema.get("max_length") or 2083
        }

    def multi_host_url_schema(self, schema: Any) -> JsonSchemaValue:
        schemes = "|".join(scheme.replace("+", "\\+") for scheme in schema.get("allowed_schemes") or ["https"])
        user = "[a-z0-9_]+(:[a-z0-9_]+)?@"
        return {"type": "string", "pattern": rf"^({schemes})://({user})?{_HOST}(:[1-9][0-9]{{0,3}})?/[a-z0-9_]+$"}

    def str_schema(self, schema: Any) -> JsonSchemaValue:
        return super().str_schema(schema) | {_TEXT: True}

    def chain_schema(self, schema: Any) -> JsonSchemaValue:
        if any(step["type"] == "is-instance" for step in schema["steps"]):
            # Hashable is any value that JSON has and that is neither a list nor a dict.
            return {"type": ["string", "number", "boolean", "null"]}
        return super().chain_schema(schema)

    def is_subclass_schema(self, schema: Any) -> JsonSchemaValue:
        raise SchemaError("type[...] is not supported: JSON has no classes")

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        if schema["type"].startswith("function-"):
            _refuse_function(schema)
        return super().generate_inner(schema)

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        out: dict[str, Any] = {"type": "object"}
        if "values_schema" in schema:
            out["additionalProperties"] = self.generate_inner(schema["values_schema"])
        if "keys_schema" in schema:
            names = _names(self.generate_inner(schema["keys_schema"]))
            out |= {} if names is True else {"propertyNames": names}
        out |= {"minProperties": schema["min_length"]} if schema.get("min_length") else {}
        return out | ({} if schema.get("max_length") is None else {"maxProperties": schema["max_length"]})

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        tag = schema["discriminator"]
        found = super().tagged_union_schema(schema)
        if not isinstance(tag, str) or "oneOf" not in found:
            return found
        # pydantic chooses by the tag, which must be there even where it has a default.
        return {"anyOf": [{"allOf": [option, {"required": [tag]}]} for option in found["oneOf"]]}


def _refuse_function(schema: Any) -> None:
    """Raise for types that look outside: whether a path is free, what a module holds."""
    name = getattr(schema["function"]["function"], "__qualname__", "")
    if name in _LOOKING_OUTSIDE:
        raise SchemaError(f"{_LOOKING_OUTSIDE[name]} is not supported: a grammar can check only the text")


def _all_of(*patterns: str) -> JsonSchemaValue:
    return {"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]}


def _years(schema: Any) -> str:
    """The years of a date, narrower where it must lie in the past or the future."""
    kind = "date" if schema["type"] == "date" else "datetime"
    _refuse_bounds(kind, schema, ("gt", "ge", "lt", "le"))
    year, when = datetime.date.today().year, schema.get("now_op")
    if when == "past":
        return f"^(1[0-9]{{3}}|{'|'.join(map(str, range(2000, year)))})"
    return f"^({'|'.join(map(str, range(year + 1, 2100)))}|2[1-9]|[3-9])" if when == "future" else _YEARS


def _refuse_bounds(kind: str, schema: Any, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if schema.get(keyword) is not None:
            raise SchemaError(f"{kind} with {keyword}= is not supported: no grammar compares them")


def _decimal(schema: Any) -> JsonSchemaValue:
    bounds = {
        keyword: _plain(schema[name])
        for name, keyword in (
            ("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum"), ("lt", "exclusiveMaximum"),
            ("multiple_of", "multipleOf"),
        )
        if schema.get(name) is not None
    }  # fmt: skip
    digits, places = schema.get("max_digits"), schema.get("decimal_places")
    if digits is None and places is None:
        return {"type": "number", **bounds}
    if bounds:
        raise SchemaError("Decimal with bounds beside max_digits or decimal_places is not supported")
    places = digits if places is None else places
    whole = "" if digits is None else str(max(digits - places, 1) - 1)
    fraction = rf"(\.[0-9]{{1,{places}}})?" if places else ""
    if digits is not None and digits <= places:
        # Zeros behind the point count as digits.
        return {"type": "string", "pattern": rf"^-?0\.[0-9]{{1,{digits}}}$"}
    if schema.get("decimal_places") is None:
        return {"type": "string", "pattern": rf"^-?(0|[1-9][0-9]{{0,{digits - 1}}})$"}
    return {"type": "string", "pattern": rf"^-?(0|[1-9][0-9]{{0,{whole}}}){fraction}$"}


def _plain(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


def _names(keys: JsonSchemaValue) -> Any:
    """A schema of names from one of keys, which JSON writes as strings."""
    kind = keys.get("type")
    if kind == "string" or "$ref" in keys or not keys:
        return {key: value for key, value in keys.items() if key != "title"} or True
    if "enum" in keys or "const" in keys:
        values = keys.get("enum", [keys.get("const")])
        if all(isinstance(value, str) for value in values):
            return {"enum": values}
    if keys.keys() <= {"type", "title"}:
        if kind == "integer":
            return {"pattern": "^(0|-?[1-9][0-9]{0,17})$"}
        if kind == "number":
            return {"pattern": r"^-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?$"}
        if kind == "boolean":
            return {"enum": ["true", "false"]}
    raise SchemaError(f"a dict with keys of the schema {json.dumps(keys)} is not supported: names of JSON are strings")


def _without_annotations(value: Any, *, names: bool = False) -> Any:
    """A copy without defaults and examples, which may be what JSON cannot write."""
    if isinstance(value, list):
        return [_without_annotations(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: inner
        if key in ("const", "enum") and not names
        else _without_annotations(inner, names=not names and key in _NAMES)
        for key, inner in value.items()
        if names or key not in _ANNOTATED
    }


_NAMES = ("properties", "$defs", "patternProperties")


def _relaxed(value: Any, root: Any, *, names: bool = False) -> Any:
    """A schema by pydantic for what it reads best.

    Properties that it would ignore are left out; items of a set may come twice, and count once. ``names`` says that
    the keys are no keywords but names.
    """
    if isinstance(value, list):
        return [_relaxed(item, root) for item in value]
    if not isinstance(value, dict):
        return value
    if names:
        return {name: _relaxed(inner, root) for name, inner in value.items()}
    out: dict[str, Any] = {}
    for keyword, inner in value.items():
        if keyword in ("const", "enum", "discriminator"):
            out[keyword] = inner
        elif keyword == _TEXT:
            continue
        elif keyword == "format":
            out |= _format("base64text" if inner in ("base64", "base64url") and _TEXT in value else inner, out)
        elif keyword == "pattern" and inner == _BYTE_SIZE:
            out[keyword] = "^[0-9]{1,9}([kKmMgGtTpP]i?)?[bB]$"
        elif keyword != "uniqueItems" or value.get("minItems", 0) > 1:
            # Of a set that must have several items, these must differ.
            out[keyword] = _relaxed(inner, root, names=keyword in _NAMES)
    if "properties" in out and not out.keys() & {"additionalProperties", "patternProperties", "allOf"}:
        out["additionalProperties"] = False
    return out


def _format(name: str, beside: dict[str, Any]) -> dict[str, Any]:
    if name in _REFUSED:
        raise SchemaError(f"a type with the format {name!r} is not supported: no grammar describes {_REFUSED[name]}")
    if name in _PATTERNS:
        return {"allOf": [*beside.get("allOf", []), {"pattern": f"^({_PATTERNS[name]})$"}]}
    # Other formats are annotations.
    return {"format": name} if name in FORMATS else {}


__all__ = ["adapter_of"]
