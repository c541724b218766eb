"""What an error of a schema says: the keyword, its place, and by name what is not supported."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.blame import with_place
from llama_cffi.grammar.form import UnsatisfiableError
from llama_cffi.grammar.json_schema import WHITESPACE, compile_json_schema
from llama_cffi.grammar.loosening import loosen
from llama_cffi.grammar.schema import _grammar
from llama_cffi.grammar.values import GBNF, Regex
from tests.support.byte_grammar import ByteGrammar

NEVER = {"allOf": [{"type": "string"}, {"type": "integer"}]}
MANY = [{"properties": {f"a{i}": {"type": "string"}}} for i in range(30)]


@pytest.mark.parametrize(
    ("schema", "pointer", "keyword"),
    [
        ({"type": "object", "required": ["a"], "properties": {"a": False}}, "", "required"),
        ({"required": ["x"], "type": "object", "properties": {"x": {"const": 1, "type": "string"}}}, "", "required"),
        ({"required": ["x"], "type": "object", "properties": {"x": NEVER}}, "", "required"),
        ({"items": NEVER, "minItems": 1, "type": "array"}, "/items/allOf/0", "type"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "", "minimum"),
        ({"anyOf": [{"enum": [1], "type": "string"}]}, "/anyOf/0", "enum"),
        ({"$defs": {"a~b/c": {"not": {}}}, "$ref": "#/$defs/a~0b~1c"}, "/$defs/a~0b~1c", "not"),
        ({"not": {}}, "", "not"),
        ({"properties": {"a": {"enum": [1e-30]}}}, "/properties/a", "enum"),
        ({"properties": {"const": {"const": math.nan}}}, "/properties/const", "const"),
        ({"properties": {"p": {"default": [1, {"x": math.inf}]}}}, "/properties/p", "default"),
        ({"properties": {"p": {"description": "\ud800"}}}, "/properties/p", "description"),
        ({"properties": {"a": 3}}, "", "properties"),
        ({"anyOf": [3]}, "", "anyOf"),
        ({"dependentSchemas": {"a": 3}}, "", "dependentSchemas"),
        ({"items": 3}, "", "items"),
        ({"patternProperties": {"^a": {}}, "properties": {"a\n": {}}}, "", "patternProperties"),
        ({"properties": {f"k{i}": {} for i in range(1200)}}, "", "properties"),
    ],
)
def test_every_refusal_has_its_keyword(schema: Any, pointer: str, keyword: str) -> None:
    with pytest.raises(SchemaError) as caught:
        compile_json_schema(schema)
    assert (caught.value.pointer, caught.value.keyword) == (pointer, keyword)
    assert str(caught.value).startswith(f"schema at {pointer or 'its top'}: {keyword!r} ")


@pytest.mark.conformance
def test_too_many_combinations_have_their_keyword() -> None:
    schema = {"properties": {"a": {"anyOf": MANY, "allOf": [{"anyOf": MANY}, {"anyOf": MANY}]}}}
    with pytest.raises(SchemaError, match=r"^schema at /properties/a: 'anyOf' makes too many combinations"):
        compile_json_schema(schema)


def test_without_the_keyword_the_schema_is_taken() -> None:
    schema = {"type": "array", "items": {"anyOf": [{"type": "string", "maxLength": 2, "minLength": 3}]}, "minItems": 1}
    with pytest.raises(UnsatisfiableError, match="no value satisfies the schema") as caught:
        compile_json_schema(schema)
    assert caught.value.pointer == "/items/anyOf/0"
    del schema["items"]["anyOf"][0][caught.value.keyword]  # type: ignore[index]
    compile_json_schema(schema)


def test_a_schema_that_no_value_satisfies_is_not_loosened() -> None:
    with pytest.raises(UnsatisfiableError):
        loosen({"type": "integer", "minimum": 5, "maximum": 3}, compile_json_schema)
    with pytest.raises(UnsatisfiableError, match=r"^no value"):
        loosen(False, compile_json_schema)


def test_what_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {"type": "object"}
    loop["properties"] = {"a": loop}
    with pytest.raises(SchemaError, match="Circular"):
        compile_json_schema(loop)


def test_a_search_that_finds_nothing_leaves_the_error() -> None:
    def never(schema: Any) -> None:
        raise SchemaError("no")

    error = SchemaError("no")
    assert with_place(error, {"anyOf": [{"type": "string"}]}, never) is error
    assert with_place(error, True, never) is error
    placed = SchemaError("no", pointer="/a", keyword="type")
    assert with_place(placed, {"type": "string"}, lambda schema: None) is placed


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?i)a", "flags inside the pattern"),
        ("a(?-i:b)", "flags inside the pattern"),
        ("(?P<a>x)", "Python's syntax for named groups"),
        ("(?P=a)", "Python's syntax for named groups"),
        ("(?>a)", "an atomic group"),
        ("(?=a)b", "lookaround"),
        ("(?<!a)b", "lookaround"),
        ("(?#c)a", "a comment"),
        ("(?(1)a|b)", "a condition"),
        ("(?R)", "recursion"),
        (r"(a)\1", "a back reference"),
        (r"(?<n>a)\k<n>", "a back reference"),
        (r"\bword\B", "a word boundary"),
        (r"\p{L}", "a Unicode property"),
        (r"\Aa\z", "an anchor of other languages"),
    ],
)
def test_what_a_pattern_may_not_hold_is_named(pattern: str, what: str) -> None:
    with pytest.raises(SchemaError, match=what):
        Regex(pattern)
    with pytest.raises(SchemaError, match=what) as caught:
        compile_json_schema({"properties": {"a": {"type": "string", "pattern": pattern}}})
    assert (caught.value.pointer, caught.value.keyword) == ("/properties/a", "pattern")


@pytest.mark.parametrize("indent", [None, 1, 2, 3, 4, "\t"])
def test_what_json_writes_is_let_through(indent: int | str | None) -> None:
    depth = 10
    schema: dict[str, Any] = {"type": "integer"}
    value: Any = 1
    for i in range(depth):
        listed = {"type": "array", "items": schema}
        schema = listed if i % 2 else {"properties": {"a": schema}, "additionalProperties": False}
        value = [value, value] if i % 2 else {"a": value}
    grammar = ByteGrammar(compile_json_schema(schema))
    assert grammar.accepts(json.dumps(value, indent=indent))
    assert "{0,40}" in WHITESPACE
    if indent == 4:
        assert not ByteGrammar(compile_json_schema({"type": "array"})).accepts("[\n" + 41 * " " + "1]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('root ::= "a"{5,0}', "at least 5 times and at most 0"),
        ('root ::= "a"{3000}', "repeats more often than 2000 times"),
        ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "more than 1000 parentheses"),
        ("root ::= " + "(" * 700 + '"a"' + ")" * 700, "cannot be converted"),
        ("root ::= " + '"a"? ' * 20_000, "20,000 repetitions; with engine='llguidance' at most 2,000"),
        ('root ::= "' + "a" * 1_000_000 + '"', "bytes; with engine='llguidance' at most 200,000"),
        (
            "root ::= r0\n" + "".join(f'r{i} ::= "a" r{i + 1}\n' for i in range(20_000)) + 'r20000 ::= "b"',
            "bytes; with",
        ),
        ("root ::= a\n" + "".join(f"a{i} ::= [a]\n" for i in range(2_000)) + "a ::= [b]", "2,002 rules"),
    ],
)
def test_gbnf_that_costs_llguidance_too_much(text: str, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        _grammar(GBNF(text, engine="llguidance"), [], "error")


def test_gbnf_that_llama_cpp_could_not_follow_is_one_for_llguidance() -> None:
    for text in ("root ::= " + '"a"? ' * 400, 'root ::= root "a" | "b"', 'root ::= "a"{0,2000}'):
        (grammar,), _ = _grammar(GBNF(text, engine="llguidance"), [], "error")
        assert ByteGrammar(json.dumps({"grammars": [grammar]})).accepts("b" if "root ::= root" in text else "aaaa")
