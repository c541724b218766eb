"""Calls of nested elements: what the template writes is read back, and let through by the grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import find
from llama_cffi.reply.lark import quoted
from tests.support.byte_grammar import ByteGrammar
from tests.support.replies import read

MARK = "]<]minimax[>["
M3 = find("minimax-m3")

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}$"},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
        "pair": {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "boolean"}],
            "items": False,
            "minItems": 1,
        },
        "place": {"$ref": "#/$defs/Place"},
        "limit": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
        "kind": {"enum": ["a", "b c", 5, {"x": [1, "y"]}]},
        "open": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "inside": {"$ref": "#/$defs/Place"}, "item": {"type": "number"}},
            "required": ["name"],
        }
    },
}
TOOL = ToolSpec("go", PARAMETERS)


def written(value: Any) -> str:
    """A value as the chat template writes it."""
    if isinstance(value, dict):
        return "".join(f"{MARK}<{key}>{written(one)}{MARK}</{key}>" for key, one in value.items())
    if isinstance(value, list):
        return "".join(f"{MARK}<item>{written(one)}{MARK}</item>" for one in value)
    return value if isinstance(value, str) else json.dumps(value)


def call(body: str) -> str:
    return f'{MARK}<tool_call>\n{MARK}<invoke name="go">{body}{MARK}</invoke>\n{MARK}</tool_call>'


@pytest.fixture(scope="module")
def grammar() -> ByteGrammar:
    lark = M3.grammar(ReplyRules((TOOL,), choice="required"), quoted)
    return ByteGrammar(json.dumps({"grammars": [{"lark_grammar": lark}]}))


GOOD: list[dict[str, Any]] = [
    {},
    {"city": "Oslo"},
    {"city": ""},
    {"city": " [1] <b>null</b>\n"},
    {"code": "NO", "days": 9},
    {"tags": []},
    {"tags": ["a", "", "null"]},
    {"pair": ["x"]},
    {"pair": ["x", True]},
    {"place": {"name": "a", "inside": {"name": "b", "item": 1.5}}},
    {"limit": 5},
    {"limit": ""},
    {"limit": "five"},
    {"limit": [1, 2]},
    {"kind": "b c"},
    {"kind": 5},
    {"kind": {"x": [1, "y"]}},
]


@pytest.mark.parametrize("arguments", GOOD)
def test_what_the_template_writes(grammar: ByteGrammar, arguments: dict[str, Any]) -> None:
    text = call(written(arguments))
    for pieces in ([text], list(text)):
        (found,) = read(M3, ReplyRules((TOOL,)), pieces).calls
        assert (found.name, json.loads(found.arguments), found.complete) == ("go", arguments, True)
    assert grammar.accepts(text)
    assert grammar.accepts(f"</mm:think>{text}")


@pytest.mark.parametrize(
    "arguments",
    [
        {"code": "no"},
        {"days": 10},
        {"days": 1.5},
        {"tags": ["toolong"]},
        {"tags": ["a", "b", "c", "d"]},
        {"pair": []},
        {"pair": ["x", "y"]},
        {"place": {"item": 1}},
        {"kind": "c"},
        {"limit": {"a": 1}},
        {"other": "x"},
        {"days": 1, "city": "x"},
    ],
)
def test_what_the_schema_refuses(grammar: ByteGrammar, arguments: dict[str, Any]) -> None:
    assert not grammar.accepts(call(written(arguments)))


def test_open_objects_are_json(grammar: ByteGrammar) -> None:
    text = call(f'{MARK}<open>{{"a": 1, "b": 2}}{MARK}</open>')
    assert grammar.accepts(text)
    (found,) = read(M3, ReplyRules((TOOL,)), [text]).calls
    assert json.loads(found.arguments) == {"open": {"a": 1, "b": 2}}
    assert not grammar.accepts(call(f'{MARK}<open>{{"a": "x"}}{MARK}</open>'))


def test_without_a_schema_the_elements_tell() -> None:
    text = call(written({"a": [1, {"b": "c"}], "d": {"e": None}, "f": "g"}))
    (found,) = read(M3, ReplyRules(), [text]).calls
    assert json.loads(found.arguments) == {"a": [1, {"b": "c"}], "d": {"e": None}, "f": "g"}


def test_a_call_that_breaks_off_is_none() -> None:
    text = call(written({"city": "Oslo"}))
    for end in range(len(text) - len(f"{MARK}</invoke>\n{MARK}</tool_call>")):
        assert not any(one.complete for one in read(M3, ReplyRules((TOOL,)), [text[:end]]).calls)
