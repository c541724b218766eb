"""Texts without quotes that must satisfy a schema: what the grammar takes, and what the engine can bear."""

from __future__ import annotations

from typing import Any

import pytest

from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import find
from tests.support.replies import SmallVocabulary, compiled, read, reply_grammar

VOCABULARY = SmallVocabulary((), special=False)


def takes(name: str, schema: dict[str, Any], reply: str) -> bool:
    """Whether a format allows a reply as a call of ``f(a)``."""
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    rules = ReplyRules((ToolSpec("f", parameters),), choice="required", reasoning="off", parallel=False)
    matcher = compiled(str(reply_grammar(find(name), rules)), VOCABULARY.engine)
    tokens = VOCABULARY(reply)
    n = matcher.try_consume_tokens(tokens)
    assert not matcher.is_error(), matcher.get_error()
    whole = n == len(tokens) and matcher.is_accepting()
    if whole:
        assert [call.complete for call in read(find(name), rules, [reply]).calls] == [True]
    return whole


def qwen(value: str) -> str:
    return f"<tool_call>\n<function=f>\n<parameter=a>\n{value}</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_long_texts_may_close_in_either_way(n: int) -> None:
    for schema in ({"type": "string", "maxLength": n}, {"type": "string", "minLength": 2, "maxLength": n}):
        assert takes("qwen-coder", schema, qwen("abc\n"))
        assert takes("qwen-coder", schema, qwen("abc"))
        assert takes("qwen-coder", schema, qwen("a" * n))
        assert takes("qwen-coder", schema, qwen("a" * n + "\n"))
        assert not takes("qwen-coder", schema, qwen("a" * (n + 1)))
    assert not takes("qwen-coder", {"type": "string", "minLength": 2, "maxLength": n}, qwen("a\n"))
    assert not takes("qwen-coder", {"type": "string", "minLength": 1, "maxLength": n}, qwen("\n"))
    assert takes("qwen-coder", {"type": "string", "minLength": 1, "maxLength": n}, qwen("<b>\n"))


def test_a_text_or_null_is_written_as_either() -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    for value in ("Oslo", "null", '"Oslo"', "", "New York"):
        assert takes("qwen-coder", schema, qwen(f"{value}\n")), value
    assert not takes("qwen-coder", schema, qwen("12\n"))
    assert not takes("qwen-coder", schema, qwen("true\n"))


def test_a_text_may_stand_in_quotes_of_its_own() -> None:
    schema = {"type": "string", "maxLength": 500}
    for value in ("Oslo", "<![CDATA[<b>Oslo</b>]]>"):
        assert takes("minicpm", schema, f'<function name="f"><param name="a">{value}</param></function>'), value


@pytest.mark.parametrize("value", ["'Oslo'", '"Oslo"', "'It\\'s'", '"It\'s"', "'a\nb'", "{'k': 'v'}", '{"k": "v"}'])
def test_python_quotes_are_single_or_double(value: str) -> None:
    schema: dict[str, Any] = {"type": "string"}
    if value.startswith("{"):
        schema = {"type": "object", "additionalProperties": {"type": "string"}}
    assert takes("lfm2", schema, f"<|tool_call_start|>[f(a={value})]<|tool_call_end|>")


def test_quotes_say_that_a_value_is_a_text() -> None:
    schema = {"pattern": "^ab?$"}
    rules = ReplyRules((ToolSpec("f", {"type": "object", "properties": {"a": schema}}),), choice="required")
    reply = '<function name="f"><param name="a"><![CDATA[ab]]></param></function>'
    assert [call.arguments for call in read(find("minicpm"), rules, [reply]).calls] == ['{"a": "ab"}']


def test_a_word_of_python_is_no_null_where_a_text_may_stand() -> None:
    assert not takes("qwen-coder", {"type": ["string", "null"], "maxLength": 1}, qwen("None\n"))
    assert takes("qwen-coder", {"type": "null"}, qwen("None\n"))


def test_a_value_may_begin_as_a_text_could() -> None:
    for schema in ({"minLength": 2, "pattern": "a"}, {"not": {"type": "string", "maxLength": 4, "pattern": "[0-9]"}}):
        for value in ("true", "101", '"a1a1a"', "[]", "null", "beach"):
            assert takes("qwen-coder", schema, qwen(f"{value}\n")), value


def test_the_arguments_may_be_one_of_several_objects() -> None:
    def options(name: str, kind: str) -> dict[str, Any]:
        return {"properties": {name: {"type": kind}}, "required": [name], "additionalProperties": False}

    parameters = {"type": "object", "anyOf": [options("a", "integer"), options("b", "boolean"), options("a", "string")]}
    rules = ReplyRules((ToolSpec("f", parameters),), choice="required", reasoning="off", parallel=False)
    for name, good, bad in (
        ("qwen-coder", [qwen("3\n"), qwen("x\n"), qwen('"3"\n'), qwen("true\n").replace("=a", "=b")], [qwen("true\n")]),
        ("gemma4", ["<|tool_call>call:f{a:3}<tool_call|>", "<|tool_call>call:f{b:true}<tool_call|>"],
         ["<|tool_call>call:f{a:3,b:true}<tool_call|>", "<|tool_call>call:f{}<tool_call|>"]),
    ):  # fmt: skip
        start = compiled(str(reply_grammar(find(name), rules)), VOCABULARY.engine)
        for text in (*good, *bad):
            matcher, tokens = start.deep_copy(), VOCABULARY(text)
            whole = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
            assert whole == (text in good), text


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, ["[]", "[3]"], ["[3, 3]"]),
        ({"enum": [[1, "x"], {"k": None}, "x", 1.5]}, ["[1, 'x']", "{'k': None}", "'x'", "1.5"], ["[1]", "{}", "1"]),
        ({"type": "object", "patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": {"const": "x"}},
         ["{'n': 1, 'a': 'x'}", "{}"], ["{'n': 'x'}", "{'a': 1}"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2},
         ["{'a': 1}", "{'a': 1, 'b': 2}"], ["{}", "{'a': 1, 'b': 2, 'c': 3}"]),
        ({"type": "object", "properties": {"c": {"const": 1}}, "additionalProperties": {"const": 2}},
         ["{'c': 1}", "{'cc': 2}", "{'c': 1, 'd': 2}", "{}"], ["{'c': 2}", "{'cc': 1}"]),
        ({"type": "string", "not": {"const": "x"}}, ["'y'", "''"], ["'x'"]),
        ({"type": ["array", "integer"], "items": {"$ref": "#/properties/a"}}, ["[[3], 4]", "5"], ["['x']"]),
    ],
)  # fmt: skip
def test_a_notation_keeps_to_schemas(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    for value in (*good, *bad):
        assert takes("lfm2", schema, f"<|tool_call_start|>[f(a={value})]<|tool_call_end|>") == (value in good), value


def test_an_enum_is_written_in_every_format() -> None:
    definition = {"E": {"enum": ["x", "y"], "title": "E", "type": "string"}}
    parameters = {"type": "object", "properties": {"a": {"$ref": "#/$defs/E"}}, "$defs": definition}
    for name in ("qwen-coder", "seed-oss", "glm", "glm-4.7", "hunyuan", "minimax-m2", "minicpm", "deepseek-v4", "lfm2"):
        assert reply_grammar(find(name), ReplyRules((ToolSpec("f", parameters),)))


def test_a_call_may_end_with_its_line() -> None:
    for name in ("qwen-coder", "hermes"):
        rules = ReplyRules((ToolSpec("f", {"type": "object"}),), choice="required", reasoning="off")
        matcher = compiled(str(reply_grammar(find(name), rules)), VOCABULARY.engine)
        call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
        if name == "qwen-coder":
            call = "<tool_call>\n<function=f>\n</function>\n</tool_call>"
        for text in (call, "\n", call, "\n"):
            tokens = VOCABULARY(text)
            assert matcher.try_consume_tokens(tokens) == len(tokens)
            assert matcher.is_accepting(), text
