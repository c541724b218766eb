"""Schemas as people write them, in the forms of every draft, with instances that are valid and instances that are not.

A field is what a schema says of one value, with values near its border. An entity is a list of fields; each style
writes an entity in the idioms of one draft or one kind of tool. ``jsonschema`` judges the instances.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Field:
    """One property: its schema (of draft 2020-12), values that it has, and values that it never has."""

    schema: dict[str, Any]
    good: tuple[Any, ...]
    bad: tuple[Any, ...]


def text(good: tuple[Any, ...], bad: tuple[Any, ...] = (), **keywords: Any) -> Field:
    return Field({"type": "string", **keywords}, good, (7, None, *bad))


def number(kind: str, good: tuple[Any, ...], bad: tuple[Any, ...] = (), **keywords: Any) -> Field:
    return Field({"type": kind, **keywords}, good, ("7", None, *bad))


def one_of(*values: Any) -> Field:
    return Field({"enum": list(values)}, values, ("neither", -99))


def items(inner: Field, **keywords: Any) -> Field:
    good: list[Any] = [list(inner.good[: keywords.get("maxItems", 2)])]
    if not keywords.get("minItems"):
        good.append([])
    bad: list[Any] = [[inner.bad[0]], "x"]
    if keywords.get("minItems"):
        bad.append([])
    if "maxItems" in keywords:
        bad.append([inner.good[0]] * (keywords["maxItems"] + 1))
    return Field({"type": "array", "items": inner.schema, **keywords}, tuple(good), tuple(bad))


def record(required: list[str], **members: Field) -> Field:
    full = {name: one.good[0] for name, one in members.items()}
    least = {name: full[name] for name in required}
    bad: list[Any] = [[], {**full, "unknown_key": 1}]
    bad += [{key: value for key, value in full.items() if key != name} for name in required]
    bad += [{**full, name: one.bad[0]} for name, one in members.items()]
    schema = {
        "type": "object",
        "properties": {name: one.schema for name, one in members.items()},
        "required": required,
        "additionalProperties": False,
    }
    return Field(schema, (full, least), tuple(bad))


def mapping(inner: Field, pattern: str = "") -> Field:
    keywords: dict[str, Any] = {"additionalProperties": inner.schema}
    if pattern:
        keywords = {"patternProperties": {pattern: inner.schema}, "additionalProperties": False}
    good: tuple[Any, ...] = ({"a": inner.good[0], "b2": inner.good[-1]}, {})
    return Field({"type": "object", **keywords}, good, ({"a": inner.bad[0]}, [], "x"))


def nullable(inner: Field) -> Field:
    schema = {**inner.schema, "type": [inner.schema["type"], "null"]}
    return Field(schema, (*inner.good, None), tuple(one for one in inner.bad if one is not None))


NAME = text(("Ada", "Jürgen Öz", "x"), ("",), minLength=1, maxLength=80)
SLUG = text(("my-app", "a", "a-1-b"), ("My App", "-a", "a_b"), pattern="^[a-z0-9]+(?:-[a-z0-9]+)*$")
TITLE = text(("A title", ""), maxLength=120)
FREE = text(("", "line one\nline two", 'quotes " and \\'))
EMAIL = text(("ann@example.com",), ("ann", "a@"), format="email")
URI = text(("https://example.com/a?b=c#d",), ("not a uri", "://x"), format="uri")
UUID = text(("123e4567-e89b-12d3-a456-426614174000",), ("123e4567",), format="uuid")
DATE = text(("2024-02-29", "1999-12-31"), ("2023-02-29", "2024-1-1"), format="date")
STAMP = text(("2024-02-29T12:30:00Z", "2024-02-29T12:30:00.5+02:00"), ("2024-02-29 12:30",), format="date-time")
IPV4 = text(("192.168.0.1",), ("256.1.1.1", "1.2.3"), format="ipv4")
HOST = text(("db.example.com", "localhost"), ("-x.example",), format="hostname")
VERSION = text(("1.0.0", "10.20.30"), ("1.0", "v1.0.0"), pattern=r"^\d+\.\d+\.\d+$")
CURRENCY = text(("EUR", "USD"), ("eur", "EURO"), pattern="^[A-Z]{3}$")
COLOR = text(("#fff000", "#ABCDEF"), ("#ff", "red"), pattern="^#[0-9a-fA-F]{6}$")
PHONE = text(("+491701234567",), ("0170", "+12"), pattern=r"^\+[1-9]\d{6,14}$")
SEMI = text(("a", "b c"), ("",), minLength=1)
PORT = number("integer", (1, 8080, 65535), (0, 65536, 80.5), minimum=1, maximum=65535)
COUNT = number("integer", (0, 3, 1000000), (-1, 1.5), minimum=0)
AGE = number("integer", (0, 42, 150), (-1, 151), minimum=0, maximum=150)
PERCENT = number("number", (0, 0.5, 100), (-0.1, 100.5), minimum=0, maximum=100)
PRICE = number("number", (0.01, 19.99, 5), (0, -1), exclusiveMinimum=0)
CENTS = number("number", (0, 12.25, 3), (0.005, 1.001), multipleOf=0.01)
LATITUDE = number("number", (-90, 0, 48.137), (-90.5, 91), minimum=-90, maximum=90)
EVEN = number("integer", (0, 2, 64), (1, 63), multipleOf=2)
ANY_NUMBER = number("number", (0, -3.5, 12))
FLAG = Field({"type": "boolean"}, (True, False), (0, "true", None))
LEVEL = one_of("debug", "info", "warning", "error")
STATUS = one_of("open", "closed", "merged")
MIXED = one_of(1, "two", None, True)
KIND = Field({"const": "thing"}, ("thing",), ("other", 1))
TAGS = items(SLUG, maxItems=5)
NAMES = items(NAME, minItems=1)
NUMBERS = items(ANY_NUMBER)
POINT = record(["lat", "lon"], lat=LATITUDE, lon=ANY_NUMBER)
MONEY = record(["amount", "currency"], amount=CENTS, currency=CURRENCY)
LABELS = mapping(text(("x", "")))
PORTS = mapping(PORT, "^[a-z0-9]{1,8}$")
LINES = items(record(["sku", "quantity"], sku=SLUG, quantity=COUNT, price=PRICE), minItems=1, maxItems=3)
MATRIX = items(NUMBERS, maxItems=3)
NOTE = nullable(text(("a note", "")))
LIMIT = nullable(number("integer", (1, 5), minimum=1))
STRING_OR_LIST = Field(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    ("one", ["one", "two"], []),
    (1, [1], None, {}),
)
NUMBER_OR_AUTO = Field(
    {"oneOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}, (1, 12, "auto"), (0, "automatic", None)
)

Fields = dict[str, Field]

ENTITIES: dict[str, tuple[Fields, tuple[str, ...]]] = {
    "person": ({"name": NAME, "age": AGE, "email": EMAIL, "phone": PHONE, "tags": TAGS}, ("name",)),
    "address": ({"street": NAME, "city": NAME, "zip": text(("80331",), ("8033",), pattern=r"^\d{5}$"),
                 "country": CURRENCY, "location": POINT}, ("street", "city")),
    "invoice": ({"id": UUID, "issued": DATE, "lines": LINES, "total": MONEY, "note": NOTE}, ("id", "lines")),
    "server": ({"host": HOST, "port": PORT, "tls": FLAG, "workers": NUMBER_OR_AUTO, "labels": LABELS}, ("host",)),
    "logging": ({"level": LEVEL, "file": SEMI, "rotate": COUNT, "json": FLAG}, ("level",)),
    "package": ({"name": SLUG, "version": VERSION, "description": FREE, "license": STRING_OR_LIST,
                 "dependencies": LABELS}, ("name", "version")),
    "issue": ({"title": TITLE, "status": STATUS, "labels": TAGS, "votes": COUNT, "closed_at": STAMP}, ("title",)),
    "booking": ({"room": SLUG, "from": DATE, "to": DATE, "guests": AGE, "price": PRICE}, ("room", "from", "to")),
    "sensor": ({"id": UUID, "at": STAMP, "values": NUMBERS, "place": POINT, "battery": PERCENT}, ("id", "at")),
    "theme": ({"name": SLUG, "primary": COLOR, "accent": COLOR, "dark": FLAG}, ("name", "primary")),
    "user": ({"id": UUID, "login": SLUG, "email": EMAIL, "admin": FLAG, "created": STAMP}, ("id", "login")),
    "webhook": ({"url": URI, "events": NAMES, "secret": NOTE, "active": FLAG}, ("url", "events")),
    "container": ({"image": SEMI, "ports": PORTS, "env": LABELS, "command": STRING_OR_LIST, "replicas": COUNT},
                  ("image",)),
    "firewall": ({"allow": items(IPV4), "deny": items(IPV4), "default": one_of("accept", "drop")}, ("default",)),
    "product": ({"sku": SLUG, "title": TITLE, "price": MONEY, "stock": COUNT, "images": items(URI)}, ("sku", "price")),
    "payment": ({"id": UUID, "amount": CENTS, "currency": CURRENCY, "paid": FLAG, "at": STAMP}, ("amount", "currency")),
    "event": ({"name": NAME, "start": STAMP, "place": POINT, "capacity": LIMIT, "kind": KIND}, ("name", "start")),
    "search": ({"query": SEMI, "page": COUNT, "per_page": PORT, "sort": one_of("asc", "desc"), "filters": LABELS},
               ("query",)),
    "training": ({"epochs": COUNT, "batch": EVEN, "rate": PRICE, "dropout": PERCENT, "layers": NUMBERS}, ("epochs",)),
    "chart": ({"title": TITLE, "data": MATRIX, "colors": items(COLOR), "legend": FLAG}, ("data",)),
    "database": ({"url": URI, "pool": COUNT, "timeout": PERCENT, "replicas": items(HOST)}, ("url",)),
    "job": ({"name": SLUG, "steps": items(record(["run"], run=SEMI, name=TITLE), minItems=1), "needs": STRING_OR_LIST,
             "retry": LIMIT}, ("name", "steps")),
    "recipe": ({"title": TITLE, "servings": COUNT, "ingredients": NAMES, "minutes": EVEN}, ("title", "ingredients")),
    "weather": ({"city": NAME, "day": DATE, "high": ANY_NUMBER, "low": ANY_NUMBER, "rain": PERCENT}, ("city", "day")),
    "message": ({"role": one_of("system", "user", "assistant"), "content": FREE, "name": SLUG}, ("role", "content")),
    "device": ({"mac": text(("00:1a:2b:3c:4d:5e",), ("00:1a",), pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$"),
                "ip": IPV4, "online": FLAG, "mode": MIXED}, ("mac",)),
    "review": ({"stars": number("integer", (1, 5), (0, 6), minimum=1, maximum=5), "text": FREE, "author": NAME,
                "verified": FLAG}, ("stars",)),
    "feature": ({"key": SLUG, "enabled": FLAG, "rollout": PERCENT, "owners": NAMES, "notes": NOTE}, ("key", "enabled")),
}  # fmt: skip


@dataclass
class Case:
    """A schema with instances that are meant to be valid or not; ``jsonschema`` has the last word."""

    name: str
    schema: dict[str, Any]
    instances: list[Any] = field(default_factory=list)


# -- styles: what an entity looks like in one idiom


def plain(fields: Fields, required: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: copy.deepcopy(one.schema) for name, one in fields.items()},
        "required": list(required),
        "additionalProperties": False,
    }


def draft_4(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    schema = _mapped(plain(fields, required), _as_draft_4)
    first = next(iter(fields))
    schema["definitions"] = {first: schema["properties"][first]}
    schema["properties"][first] = {"$ref": f"#/definitions/{first}"}
    return {"$schema": "http://json-schema.org/draft-04/schema#", "id": f"https://example.com/{name}.json", **schema}


def draft_6(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    return {
        "$schema": "http://json-schema.org/draft-06/schema",
        "$id": f"https://example.com/{name}.json",
        "title": name.title(),
        "examples": [{}],
        **plain(fields, required),
    }


def draft_7(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """With a condition: a first field of one value asks for another one."""
    schema = plain(fields, required)
    names = list(fields)
    first, last = names[0], names[-1]
    return {
        "$schema": "https://json-schema.org/draft-07/schema#",
        "$comment": "generated",
        **schema,
        "if": {"properties": {first: {"const": fields[first].good[0]}}, "required": [first]},
        "then": {"required": [last]},
    }


def draft_2019(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    schema = plain(fields, required)
    names = list(fields)
    schema["dependentRequired"] = {names[-1]: [names[0]]}
    schema["$defs"] = {one: schema["properties"][one] for one in names[:2]}
    for one in names[:2]:
        schema["properties"][one] = {"$ref": f"#/$defs/{one}", "description": f"the {one}"}
    return {"$schema": "https://json-schema.org/draft/2019-09/schema", **schema}


def draft_2020(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """A list of records behind a fixed head."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "prefixItems": [{"const": name}, {"type": "integer", "minimum": 0}],
        "items": plain(fields, required),
        "minItems": 2,
        "maxItems": 4,
    }


def openapi(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    schema = plain(fields, required)
    for key, one in schema["properties"].items():
        one.update({"example": fields[key].good[0], "x-order": 1, "readOnly": key == "id"})
    return {"components": {"schemas": {"Unused": {"type": "string"}}}, "x-tags": [name], **schema}


def response(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """A page of results."""
    return {
        "type": "object",
        "properties": {
            "data": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "maxItems": 3},
            "next": {"type": ["string", "null"]},
            "total": {"type": "integer", "minimum": 0},
        },
        "required": ["data", "total"],
        "additionalProperties": False,
        "$defs": {"Item": plain(fields, required)},
    }


def tagged(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """A union whose members differ in a tag, as OpenAPI and pydantic write it."""
    branches = []
    for tag in ("create", "delete"):
        branch = plain(fields, required if tag == "create" else ())
        branch["properties"] = {"action": {"const": tag}, **branch["properties"]}
        branch["required"] = ["action", *branch["required"]]
        branches.append(branch)
    return {"oneOf": branches, "discriminator": {"propertyName": "action"}}


def inherited(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """A base and what an object adds to it."""
    base = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    own = plain(fields, required)
    own["properties"]["id"] = {}
    return {"allOf": [{"$ref": "#/definitions/Base"}, own], "definitions": {"Base": base}}


def nested(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """A tree."""
    schema = plain(fields, required)
    schema["properties"]["children"] = {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}
    return schema


def loose(fields: Fields, required: tuple[str, ...], name: str) -> dict[str, Any]:
    """As many write it: open, with unknown keywords, titles and defaults."""
    schema = plain(fields, required)
    del schema["additionalProperties"]
    for key, one in schema["properties"].items():
        one.update({"title": key.title(), "default": fields[key].good[0], "ui:widget": "text", "help": "..."})
    return {"name": name, "version": 3, **schema}


Style = Callable[[Fields, tuple[str, ...], str], dict[str, Any]]
STYLES: dict[str, Style] = {
    style.__name__: style
    for style in (
        draft_4, draft_6, draft_7, draft_2019, draft_2020, openapi, response, tagged, inherited, nested, loose,
    )
}  # fmt: skip


def _as_draft_4(schema: dict[str, Any]) -> dict[str, Any]:
    for kind in ("Minimum", "Maximum"):
        bound = schema.pop(f"exclusive{kind}", None)
        if bound is not None:
            schema |= {kind.lower(): bound, f"exclusive{kind}": True}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    return schema


def _mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(schema, list):
        return [_mapped(one, change) for one in schema]
    if not isinstance(schema, dict):
        return schema
    names = {"properties", "patternProperties"}
    inner = {
        key: {name: _mapped(one, change) for name, one in value.items()} if key in names else _mapped(value, change)
        for key, value in schema.items()
    }
    return change(inner)


# -- instances


def _objects(fields: Fields, required: tuple[str, ...], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Objects near the border: all fields, the required ones, each value, and each thing that may be wrong."""
    full = {name: one.good[0] for name, one in fields.items()}
    yield full
    yield {name: full[name] for name in required}
    yield {name: rng.choice(one.good) for name, one in fields.items()}
    for name, one in fields.items():
        yield from ({**full, name: value} for value in one.good[1:])
        yield from ({**full, name: value} for value in one.bad)
    for name in required:
        yield {key: value for key, value in full.items() if key != name}
    yield {**full, "unknown_key": 1}


def _around(style: str, name: str, objects: list[dict[str, Any]]) -> Iterator[Any]:
    """The objects where the style has them."""
    if style == "draft_2020":
        yield from ([name, 1, one] for one in objects)
        yield from ([], [name], [name, -1], ["other", 1], [name, 1, objects[0], objects[0], objects[0]])
    elif style == "response":
        yield from ({"data": [one], "total": 1} for one in objects)
        yield from ({"data": [], "next": None, "total": 0}, {"data": []}, {"data": [], "total": -1})
        yield {"data": objects[:1] * 4, "total": 4}
    elif style == "tagged":
        yield from ({"action": "create", **one} for one in objects)
        yield from ({"action": "delete"}, {"action": "purge"}, objects[0])
    elif style == "inherited":
        yield from ({"id": 1, **one} for one in objects)
        yield from (objects[0], {**objects[0], "id": "x"})
    elif style == "nested":
        yield from objects
        yield from ({**objects[0], "children": [one]} for one in objects[:6])
        yield {**objects[0], "children": [objects[0]] * 3}
    else:
        yield from objects
    yield from (None, 7, "text", [], {})


def cases(seed: int = 7) -> Iterator[Case]:
    """Every entity in every style."""
    rng = random.Random(seed)
    for name, (fields, required) in ENTITIES.items():
        for style, write in STYLES.items():
            schema = write(fields, required, name)
            instances = {json.dumps(one): one for one in _around(style, name, list(_objects(fields, required, rng)))}
            yield Case(f"{name} as {style}", schema, list(instances.values()))


__all__ = ["Case", "cases"]
