"""``schema=``: from the value of the option to a constraint for the engine."""

from __future__ import annotations

import enum
import json
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from llguidance.gbnf_to_lark import gbnf_to_lark

from llama_cffi._util.shown import shown
from llama_cffi.core.sampler.gbnf import read_sizes
from llama_cffi.errors import GrammarError, SchemaError
from llama_cffi.grammar.blame import with_place
from llama_cffi.grammar.document import Document
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.loosening import loosen
from llama_cffi.grammar.native import NativeConstraint
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.python_types import adapter_of
from llama_cffi.grammar.structure import (
    ChoiceConverter,
    Converter,
    JsonConverter,
    LazyConverter,
    Structure,
    TextConverter,
    TypeConverter,
    ValidatingConverter,
)
from llama_cffi.grammar.validation import Validator
from llama_cffi.grammar.values import GBNF, JsonSchema, Lark, Lazy, Regex, SchemaWarning

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

_CACHE_SIZE = 64


def compile_schema(
    schema: Any, vocab: Vocab, *, now: bool = True, on_unsupported: Literal["error", "annotate"] = "error"
) -> Structure:
    """Return the constraint and the converter of what ``schema=`` may be, for the texts of a vocabulary.

    A dict, a bool or :class:`JsonSchema` is JSON Schema, a list or tuple of str are choices, ``re.Pattern``,
    :class:`Regex`, :class:`GBNF`, :class:`Lark` and :class:`Lazy` say what they are, an Enum or Literal is a choice of
    its values, and every other type is JSON that pydantic makes an instance of: models, dataclasses, TypedDict,
    ``list[int]``, unions.

    Raises :class:`SchemaError` for what cannot be enforced. Compiled grammars are kept and used again. ``now`` is that
    of :class:`GuidanceConstraint`. ``on_unsupported`` is that of :class:`JsonSchema`, for a dict, a bool and types; the
    text of a type is validated by the type.
    """
    if isinstance(schema, GBNF) and schema.engine == "llama.cpp":
        return Structure(NativeConstraint(vocab, schema.text, schema.root), TextConverter())
    loosened: list[SchemaError] = []
    read = _lazy if isinstance(schema, Lazy) else _grammar
    grammars, converter = read(schema, loosened, on_unsupported)
    text = json.dumps({"grammars": grammars})
    try:
        constraint = GuidanceConstraint(vocab, text, now=now)
    except SchemaError as error:
        given = schema.schema if isinstance(schema, JsonSchema) else schema
        whole = dict(given) if isinstance(given, Mapping) else None
        raise with_place(error, whole, lambda one: compile_schema(one, vocab)) from error.__cause__
    return Structure(constraint, converter, tuple(loosened))


def _grammar(
    schema: Any, loosened: list[SchemaError], on_unsupported: Literal["error", "annotate"]
) -> tuple[list[dict[str, Any]], Converter]:
    """llguidance's list of grammars; the first one is where it begins."""
    if isinstance(schema, (bool, Mapping)):
        schema = JsonSchema(schema, on_unsupported=on_unsupported)
    if isinstance(schema, JsonSchema):
        return _json_schema(schema, loosened)
    if isinstance(schema, Regex):
        return _pattern(schema.parsed()), TextConverter()
    if isinstance(schema, re.Pattern):
        return _pattern(_python_pattern(schema)), TextConverter(schema)
    if isinstance(schema, Lark):
        return [{"lark_grammar": schema.text}], TextConverter()
    if isinstance(schema, GBNF):
        return [{"lark_grammar": _converted(schema)}], TextConverter()
    if isinstance(schema, (list, tuple)):
        return _choices(schema)
    if isinstance(schema, type) and issubclass(schema, enum.Enum):
        return _choices([member.value for member in schema], dict(zip(map(_choice_text, schema), schema, strict=True)))
    if get_origin(schema) is Literal:
        return _choices([value.value if isinstance(value, enum.Enum) else value for value in get_args(schema)])
    if schema is None or isinstance(schema, (str, bytes, int, float)):
        raise SchemaError(
            "schema: expected a type, a JSON Schema (dict), choices (list of str), Regex(...) or a grammar, "
            f"got {shown(schema)}"
        )
    adapter, text = adapter_of(schema)
    grammars = _json_grammars(text) if on_unsupported == "error" else _loose_grammars(text, False, loosened)
    return grammars, TypeConverter(adapter)


def _json_schema(schema: JsonSchema, loosened: list[SchemaError]) -> tuple[list[dict[str, Any]], Converter]:
    text = json.dumps(schema.schema)
    if schema.on_unsupported == "error":
        return _json_grammars(text, strict=schema.strict), JsonConverter()
    grammars = _loose_grammars(text, schema.strict, loosened)
    if not loosened:
        return grammars, JsonConverter()
    return grammars, ValidatingConverter(Validator(Document(schema.schema, strict=schema.strict), lenient=True))


def _loose_grammars(text: str, strict: bool, loosened: list[SchemaError]) -> list[dict[str, Any]]:
    """The grammars of a schema without what cannot be enforced, which is added to ``loosened``, and warned of."""
    grammar, errors = _compiled_loosely(text, strict)
    loosened.extend(errors)
    for error in errors:
        warnings.warn(f"treated as an annotation during generation: {error}", SchemaWarning, stacklevel=2)
    grammars: list[dict[str, Any]] = json.loads(grammar)["grammars"]
    return grammars


@lru_cache(maxsize=_CACHE_SIZE)
def _compiled(text: str, strict: bool = False) -> str:
    return compile_json_schema(json.loads(text), strict=strict)


@lru_cache(maxsize=_CACHE_SIZE)
def _compiled_loosely(text: str, strict: bool) -> tuple[str, tuple[SchemaError, ...]]:
    return loosen(json.loads(text), lambda schema: compile_json_schema(schema, strict=strict))


def _json_grammars(text: str, *, strict: bool = False) -> list[dict[str, Any]]:
    grammars: list[dict[str, Any]] = json.loads(_compiled(text, strict))["grammars"]
    return grammars


def _pattern(pattern: Pattern) -> list[dict[str, Any]]:
    try:
        return [{"lark_grammar": f"start: /{pattern.body()}/"}]
    except PatternError as error:
        raise SchemaError(str(error)) from None


def _python_pattern(pattern: re.Pattern[Any]) -> Pattern:
    if not isinstance(pattern.pattern, str):
        raise SchemaError("schema: expected a pattern of str, got one of bytes")
    if pattern.flags & ~re.UNICODE:
        raise SchemaError(f"flags of a pattern are not supported: {re.RegexFlag(pattern.flags & ~re.UNICODE)!r}")
    return Regex(pattern.pattern).parsed()


def _converted(schema: GBNF) -> str:
    text = schema.text if schema.root == "root" else f"root ::= {schema.root}\n{schema.text}"
    try:
        size = read_sizes(text.encode())
    except GrammarError as error:
        raise SchemaError(error.message) from None
    for what, n, limit in (
        ("bytes", len(text.encode()), 200_000), ("rules", size.n_named, 1_000), ("repetitions", size.n_repeats, 2_000),
    ):  # fmt: skip
        if n > limit:
            # The time grows with the square of these: below, it is two seconds.
            raise SchemaError(f"the grammar has {n:,} {what}; with engine='llguidance' at most {limit:,} are taken")
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
) -> tuple[list[dict[str, Any]], Converter]:
    if not choices:
        raise SchemaError("schema: the list of choices is empty")
    texts = []
    for i, choice in enumerate(choices):
        if not isinstance(choice, (str, int, float, type(None))):
            raise SchemaError(f"schema: choice {i} must be a str, a number or None, not {type(choice).__name__}")
        text = _choice_text(choice)
        if not text or "\0" in text or any(0xD800 <= ord(sign) < 0xE000 for sign in text):
            raise SchemaError(f"schema: choice {i} is empty, or holds a NUL character or a lone surrogate: {text!r}")
        texts.append(text)
    if len(set(texts)) < len(texts):
        raise SchemaError("schema: two choices are the same text")
    converter = ChoiceConverter(values or dict(zip(texts, choices, strict=True)))
    return _pattern(Pattern.words(texts)), converter


def _lazy(
    schema: Lazy, loosened: list[SchemaError], on_unsupported: Literal["error", "annotate"]
) -> tuple[list[dict[str, Any]], Converter]:
    """llguidance's lazy lexeme ends with the first trigger; what follows it is another grammar."""
    grammars, converter = _grammar(schema.schema, loosened, on_unsupported)
    begin = " | ".join(_lark_text(trigger) for trigger in schema.triggers)
    body = f"(head @body {_lark_text(schema.end)})* tail" if schema.end else "head @body | tail"
    text = f"start: {body}\ntail: TEXT\nhead[lazy]: TEXT ({begin})\nTEXT: /(?s:.*)/\n"
    return [{"lark_grammar": text}, {**grammars[0], "name": "body"}], LazyConverter(
        converter, schema.triggers, schema.end
    )


def _lark_text(text: str) -> str:
    return f"/{Pattern.words([text]).body()}/"


__all__ = ["compile_schema"]
