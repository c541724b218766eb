"""What a body says that the text must look like, as the package's ``schema``, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from llama_cffi.server.nesting import next_level
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.values import Facts, items, text, typed, wrong_type

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_BYTES, SCHEMA_NODES, SCHEMA_DEPTH = 256 << 10, 2000, 32
GBNF_BYTES, REGEX_BYTES = 64 << 10, 512


def checked_schema(param: str, value: Any, _: Facts) -> Mapping[str, Any]:
    """Return a JSON Schema of a size that can be compiled."""
    if isinstance(value, str):  # vLLM's clients send it as text, too
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise wrong(param, f"is no JSON: {error}", code="invalid_schema") from None
    schema: dict[str, Any] = typed(param, value, dict)
    check_size(param, schema)
    return schema


def check_size(param: str, schema: Any) -> None:
    """Raise :class:`Problem` for a schema that is too large, too deep, or refers to other documents."""
    if len(orjson.dumps(schema)) > SCHEMA_BYTES:
        raise wrong(param, f"is a schema of more than {SCHEMA_BYTES} bytes", code="invalid_schema")
    level, nodes = [schema], 0
    for _ in range(SCHEMA_DEPTH):
        nodes += len(level)
        if nodes > SCHEMA_NODES:
            raise wrong(param, f"is a schema of more than {SCHEMA_NODES} parts", code="invalid_schema")
        for one in level:
            reference = one.get("$ref") if isinstance(one, dict) else None
            if isinstance(reference, str) and not reference.startswith("#"):
                raise wrong(param, "a $ref must begin with #: other documents are not read", code="invalid_schema")
        level = next_level(level)
        if not level:
            return
    raise wrong(param, f"is a schema of more than {SCHEMA_DEPTH} levels", code="invalid_schema")


def response_schema(param: str, value: Any, facts: Facts) -> Any:
    """Return the schema of OpenAI's ``response_format``, or of a format without its inner object; None for text."""
    kind = typed(param, value, dict).get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema")
        return {"type": "object"} if schema is None else checked_schema(f"{param}.schema", schema, facts)
    if kind == "json_schema":
        place = f"{param}.json_schema" if "json_schema" in value else param
        inner = typed(place, value.get("json_schema", value), dict)
        if inner.get("schema") is None:
            raise wrong(f"{place}.schema", "is missing", code="invalid_schema")
        return checked_schema(f"{place}.schema", inner["schema"], facts)
    if kind == "structural_tag":
        raise unsupported(f"{param}.type", "structural_tag is not supported")
    raise wrong(f"{param}.type", f"must be text, json_object or json_schema, got {kind!r:.60}")


def structured_outputs(param: str, value: Any, facts: Facts) -> Any:
    """Return the schema of vLLM's ``structured_outputs``."""
    given = {name: one for name, one in typed(param, value, dict).items() if one is not None}
    if len(given) != 1:
        raise wrong(param, "must hold one of json, regex, choice, grammar")
    ((kind, one),) = given.items()
    place = f"{param}.{kind}" if not param.startswith("guided_") else param
    if kind == "json":
        return checked_schema(place, one, facts)
    if kind == "choice":
        choices = items(place, one, SCHEMA_NODES)
        for i, choice in enumerate(choices):
            if not isinstance(choice, str):
                raise wrong_type(f"{place}[{i}]", "a string", choice)
        return choices
    from llama_cffi.grammar.values import GBNF, Regex

    if kind == "regex":
        return Regex(text(REGEX_BYTES)(place, one, facts))
    if kind == "grammar":
        return GBNF(text(GBNF_BYTES)(place, one, facts))
    raise unsupported(f"{param}.{kind:.40}", "is not supported")


__all__ = ["GBNF_BYTES", "check_size", "checked_schema", "response_schema", "structured_outputs"]
