"""``schema=``: from what a caller asks for to what the engine is held to."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pydantic
from llguidance.gbnf_to_lark import gbnf_to_lark

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.formats import FORMATS
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.keywords import as_json
from llama_cffi.grammar.native import NativeConstraint
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.structure import (
    ChoiceReader,
    JsonReader,
    LazyReader,
    Reader,
    Structure,
    TextReader,
    TypeReader,
)
from llama_cffi.grammar.values import GBNF, Lark, Lazy, Regex

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

_CACHE_SIZE = 64


def compile_schema(schema: Any, vocab: Vocab) -> Structure:
    """The constraint and the reader of what ``schema=`` may be, for the texts of a vocabulary.

    A dict or bool is JSON Schema, a list or tuple of str are choices, ``re.Pattern``, :class:`Regex`, :class:`GBNF`,
    :class:`Lark` and :class:`Lazy` say what they are, an Enum or Literal is a choice of its values, and every other
    type is JSON that pydantic makes an instance of: models, dataclasses, TypedDict, ``list[int]``, unions.

    Raises :class:`SchemaError` for what cannot be kept to. Compiled grammars are kept and used again.
    """
    if isinstance(schema, GBNF) and schema.engine == "llama.cpp":
        return Structure(NativeConstraint(vocab, schema.text, schema.root), TextReader())
    grammars, reader = _lazy(schema) if isinstance(schema, Lazy) else _grammar(schema)
    return Structure(GuidanceConstraint(vocab, json.dumps({"grammars": grammars})), reader)


def _grammar(schema: Any) -> tuple[list[dict[str, Any]], Reader]:
    """llguidance's list of grammars; the first one is where it begins."""
    if isinstance(schema, (bool, Mapping)):
        text = json.dumps(as_json(dict(schema) if isinstance(schema, Mapping) else schema))
        return _json_grammars(text), JsonReader()
    if isinstance(schema, Regex):
        return _pattern(schema.parsed()), TextReader()
    if isinstance(schema, re.Pattern):
        return _pattern(_python_pattern(schema)), TextReader(schema)
    if isinstance(schema, Lark):
        return [{"lark_grammar": schema.text}], TextReader()
    if isinstance(schema, GBNF):
        return [{"lark_grammar": _converted(schema)}], TextReader()
    if isinstance(schema, (list, tuple)):
        return _choices(schema)
    if isinstance(schema, type) and issubclass(schema, enum.Enum):
        return _choices([member.value for member in schema], dict(zip(map(_choice_text, schema), schema, strict=True)))
    if get_origin(schema) is Literal:
        return _choices([value.value if isinstance(value, enum.Enum) else value for value in get_args(schema)])
    if schema is None or isinstance(schema, (str, bytes, int, float)):
        raise SchemaError(f"{schema!r} is no schema; a regex is Regex(...), a grammar GBNF(...) or Lark(...)")
    adapter, text = _of_type(schema)
    return _json_grammars(text), TypeReader(adapter)


@lru_cache(maxsize=_CACHE_SIZE)
def _compiled(text: str) -> str:
    return compile_json_schema(json.loads(text))


def _json_grammars(text: str) -> list[dict[str, Any]]:
    grammars: list[dict[str, Any]] = json.loads(_compiled(text))["grammars"]
    return grammars


def json_rule(schema: Mapping[str, Any]) -> str:
    """A Lark expression of llguidance for the JSON texts that a schema describes, made sound; raises as above."""
    (grammar,) = _json_grammars(json.dumps(as_json(dict(schema))))
    return f"%json {json.dumps(grammar['json_schema'])}"


def closed(schema: Any, *, names: bool = False) -> Any:
    """A schema whose objects take no properties but those that they list, unless they say something of others.

    JSON Schema lets everything through that it does not speak of; who calls a function does not mean that.
    ``names`` says that the keys are no keywords but names.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if names:
        return {name: closed(inner) for name, inner in schema.items()}
    out = {
        keyword: inner if keyword in _VALUES else closed(inner, names=keyword in _NAMES)
        for keyword, inner in schema.items()
    }
    if "properties" in out and not out.keys() & _OPENING:
        out["additionalProperties"] = False
    return out


_VALUES = ("default", "examples", "const", "enum", "discriminator")
"""Keywords whose values are no schemas."""

_NAMES = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords whose values are schemas by name."""

_OPENING = {
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "if",
}
"""Keywords beside which an object may have more properties than it lists."""


def _pattern(pattern: Pattern) -> list[dict[str, Any]]:
    try:
        return [{"lark_grammar": f"start: /{pattern.body()}/"}]
    except PatternError as error:
        raise SchemaError(str(error)) from None


def _python_pattern(pattern: re.Pattern[Any]) -> Pattern:
    if not isinstance(pattern.pattern, str):
        raise SchemaError("a pattern of bytes is no pattern of texts")
    if pattern.flags & ~re.UNICODE:
        raise SchemaError(f"flags of a pattern are not supported: {re.RegexFlag(pattern.flags & ~re.UNICODE)!r}")
    return Regex(pattern.pattern).parsed()


def _converted(schema: GBNF) -> str:
    text = schema.text if schema.root == "root" else f"root ::= {schema.root}\n{schema.text}"
    try:
        return gbnf_to_lark(text)
    except Exception as error:
        # The converter raises Exception itself for rules that are missing.
        raise SchemaError(f"the grammar cannot be converted for llguidance: {error}") from error


def _choice_text(value: Any) -> str:
    value = value.value if isinstance(value, enum.Enum) else value
    return value if isinstance(value, str) else json.dumps(value)


def _choices(
    choices: list[Any] | tuple[Any, ...], values: dict[str, Any] | None = None
) -> tuple[list[dict[str, Any]], Reader]:
    if not choices:
        raise SchemaError("there is nothing to choose from")
    texts = []
    for i, choice in enumerate(choices):
        if not isinstance(choice, (str, int, float, type(None))):
            raise SchemaError(f"choice {i} must be a text, not {type(choice).__name__}")
        text = _choice_text(choice)
        if not text or "\0" in text or any(0xD800 <= ord(sign) < 0xE000 for sign in text):
            raise SchemaError(f"choice {i} is empty, or holds a NUL character or a lone surrogate: {text!r}")
        texts.append(text)
    if len(set(texts)) < len(texts):
        raise SchemaError("two choices are the same text")
    reader = ChoiceReader(values or dict(zip(texts, choices, strict=True)))
    return _pattern(Pattern.words(texts)), reader


def _lazy(schema: Lazy) -> tuple[list[dict[str, Any]], Reader]:
    """llguidance's lazy lexeme ends with the first trigger; what follows it is another grammar."""
    grammars, reader = _grammar(schema.schema)
    begin = " | ".join(_lark_text(trigger) for trigger in schema.triggers)
    body = f"(head @body {_lark_text(schema.end)})* tail" if schema.end else "head @body | tail"
    text = f"start: {body}\ntail: TEXT\nhead[lazy]: TEXT ({begin})\nTEXT: /(?s:.*)/\n"
    return [{"lark_grammar": text}, {**grammars[0], "name": "body"}], LazyReader(reader, schema.triggers, schema.end)


def _lark_text(text: str) -> str:
    return f"/{Pattern.words([text]).body()}/"


def _of_type(schema: Any) -> tuple[pydantic.TypeAdapter[Any], str]:
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
        return adapter, json.dumps(_relaxed(as_json(adapter.json_schema())))
    except (pydantic.PydanticUserError, NameError) as error:
        raise SchemaError(f"pydantic makes no schema of {schema!r}: {error}") from error


def _relaxed(value: Any, *, names: bool = False) -> Any:
    """A schema by pydantic for what it reads best.

    Properties that it would ignore are left out, and what only it can check (unknown formats, lookahead, items of a
    set that come twice) is left to it. ``names`` says that the keys are no keywords but names.
    """
    if isinstance(value, list):
        return [_relaxed(item) for item in value]
    if not isinstance(value, dict):
        return value
    if names:
        return {name: _relaxed(inner) for name, inner in value.items()}
    out: dict[str, Any] = {}
    for keyword, inner in value.items():
        if keyword in ("default", "examples", "const", "enum", "discriminator"):
            out[keyword] = inner
        elif keyword == "uniqueItems" or (keyword == "format" and inner not in FORMATS):
            continue
        elif keyword == "anyOf":
            plain = [option for option in inner if "(?!" not in str(option.get("pattern", ""))]
            out[keyword] = _relaxed(plain or inner)
        else:
            out[keyword] = _relaxed(inner, names=keyword in ("properties", "$defs", "patternProperties"))
    if "properties" in out and not out.keys() & {"additionalProperties", "patternProperties", "allOf"}:
        out["additionalProperties"] = False
    return out


__all__ = ["closed", "compile_schema", "json_rule"]
