"""What schemas let through and what is refused, text by text, over a vocabulary of bytes."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.automaton import Automaton
from llama_cffi.grammar.document import Document
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.loosening import loosen
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.validation import Validator
from tests.support.byte_grammar import ByteGrammar


def accepts(schema: Any, text: str, **options: Any) -> bool:
    return ByteGrammar(compile_json_schema(schema, **options)).accepts(text)


CLOSED = {"additionalProperties": False}
TWO_ENDS = {"allOf": [{"patternProperties": {p: {}}, **CLOSED} for p in ("^a", "b$")]}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        # Names: properties, patterns, propertyNames and what is left.
        ({"patternProperties": {"^a": {"type": "integer"}}, "propertyNames": {"maxLength": 2}},
         ['{"a":1}', '{"b":"x"}'], ['{"a":"x"}', '{"abc":1}']),
        ({"patternProperties": {"^a": {"type": "integer"}}, "propertyNames": {"maxLength": 2}, **CLOSED},
         ['{"ab":1}'], ['{"abc":1}', '{"b":1}']),
        ({"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"},
          "propertyNames": {"pattern": "^a"}}, ['{"a":"x"}', '{"a":"x","ab":1}'], ['{"ab":"x"}', '{"b":1}']),
        (TWO_ENDS, ['{"ab":1}', '{"aab":1}', "{}"], ['{"a":1}', '{"b":1}']),
        ({"patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 5}}, "type": "object"},
         ['{"ab":5}', '{"a":1}', '{"b":"x"}', '{"c":0}'], ['{"ab":4}', '{"ab":"x"}', '{"b":1}']),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, ['{"a":1,"b":2}'], ['{"c":1}']),
        ({"type": "object", "propertyNames": {"anyOf": [{"const": "abc"}, {"maxLength": 1}]}},
         ['{"abc":1}', '{"x":1}'], ['{"ab":1}']),
        ({"type": "object", "propertyNames": {"not": {"pattern": "^_"}}}, ['{"a":1}'], ['{"_a":1}']),
        # Numbers of properties.
        ({"properties": {name: {} for name in "abcdefghij"}, "minProperties": 2, **CLOSED},
         ['{"a":1,"b":1}', '{"c":1,"e":1,"j":1}'], ["{}", '{"j":1}']),
        ({"properties": {name: {} for name in "abcdefghij"}, "maxProperties": 2, **CLOSED},
         ["{}", '{"a":1,"j":1}'], ['{"a":1,"b":1,"c":1}']),
        ({"properties": {"a": {}}, "patternProperties": {"^x": {}}, "minProperties": 1, **CLOSED},
         ['{"a":1}', '{"x":1}', '{"a":1,"xx":1}'], ["{}", '{"b":1}']),
        # true is not 1, and 1 is 1.0.
        ({"anyOf": [{"const": 0}, {"const": False}]}, ["0", "false"], ["1", "true", "null"]),
        ({"anyOf": [{"const": 1}, {"const": True}]}, ["1", "true"], ["0", "false"]),
        ({"if": {"const": 0}, "then": {"type": "integer"}, "else": {"type": "boolean"}}, ["0", "false"], ["1"]),
        ({"enum": [[0], [False], {"a": 1}]}, ["[0]", "[false]", '{"a":1}'], ["[true]", '{"a":true}']),
        ({"allOf": [{"enum": [1.0, True]}, {"enum": [1, False]}]}, ["1"], ["true", "false"]),
        # Values with fractions.
        ({"const": 0.5}, ["0.5"], ["1", "0"]),
        ({"enum": [0.5, 1.5]}, ["0.5", "1.5"], ["1"]),
        ({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}, ["0", "0.5", "0.75"], ["0.3", "1.25"]),
        # not, with what has an opposite.
        ({"type": "string", "not": {"pattern": "^a"}}, ['"b"', '""'], ['"ab"']),
        ({"not": {"type": "integer"}, "type": ["integer", "string"]}, ['"1"'], ["1"]),
        ({"not": {"$ref": "#/$defs/s"}, "$defs": {"s": {"type": ["string", "object"]}}}, ["1"], ['"a"', "{}"]),
        ({"type": "object", "not": {"required": ["a", "b"]}}, ['{"a":1}'], ['{"a":1,"b":1}']),
        # Arrays.
        ({"type": "array", "maxItems": 3, "contains": {"const": 1}}, ["[1]", "[0,0,1]"], ["[]", "[0,0]"]),
        ({"items": {"const": 1}, "contains": {"minimum": 0}, "minItems": 1, "type": "array"}, ["[1,1]"], ["[]"]),
        ({"type": "array", "maxItems": 3, "contains": {"type": "null"}, "maxContains": 1},
         ["[null]", "[1,null,2]"], ["[null,null]", "[1]"]),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True},
         ["[]", '["c","a"]', '["b","a","c"]'], ['["a","a"]', '["d"]']),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False,
          "uniqueItems": True}, ['["a",1]'], ["[1]"]),
        # oneOf, where its options lie apart by a tag.
        ({"type": "object", "oneOf": [{"properties": {"k": {"const": k}, k: {"type": "integer"}}, "required": ["k", k]}
          for k in "ab"]},
         ['{"k":"a","a":1}', '{"k":"b","b":1}'], ['{"k":"a","b":1}']),
        ({"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}]}, ['"a"'], ['"c"']),
        # Older drafts.
        ({"$schema": "https://json-schema.org/draft-04/schema", "type": "integer", "minimum": 3,
          "exclusiveMinimum": True}, ["4"], ["3"]),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x.example/s", "const": 3,
          "definitions": {"a": {"id": "#a", "type": "string"}}, "properties": {"p": {"$ref": "#a"}}},
         ["4", '{"p":"x"}'], ['{"p":1}']),
        ({"$schema": "http://json-schema.org/draft-06/schema#/", "contains": {"const": 1}, "maxItems": 2},
         ["[1]"], ["[]"]),
        # Unknown keywords are annotations.
        ({"type": "integer", "readonly": True, "_format": "x", "id": "y", "format": "int32"}, ["1"], ['"a"']),
        ({"$dynamicRef": "#n", "$defs": {"n": {"$dynamicAnchor": "n", "type": "integer"}}}, ["1"], ['"a"']),
        ({"type": "string", "format": "hostname"}, ['"a.example"', '"a-b"'], ['"-a"', '"a..b"']),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)  # fmt: skip
def test_let_through_and_not(schema: Any, good: list[str], bad: list[str]) -> None:
    validator = Validator(Document(schema))
    assert [text for text in good if not accepts(schema, text)] == []
    assert [text for text in bad if accepts(schema, text)] == []
    assert [validator.valid(json.loads(text)) for text in (*good, *bad)] == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize("keyword", ["readonly", "minLenght", "_format"])
def test_strict_refuses_unknown_keywords(keyword: str) -> None:
    schema = {"properties": {"a": {keyword: 3}}}
    compile_json_schema(schema)
    with pytest.raises(SchemaError, match="not a keyword of JSON Schema") as caught:
        compile_json_schema(schema, strict=True)
    assert (caught.value.pointer, caught.value.keyword) == ("/properties/a", keyword)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?i)a", "flags inside the pattern"),
        ("(?P<a>x)", "Python's syntax"),
        ("(?>a)", "an atomic group"),
        ("(?=a)", "lookaround"),
        ("(?<!a)", "lookaround"),
    ],
)
def test_groups_are_called_what_they_are(pattern: str, what: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(what)):
        compile_json_schema({"pattern": pattern})


@pytest.mark.parametrize("pattern", ["[]", "^\\cA$", "^\\x01$", "^[]$"])
def test_a_pattern_that_nothing_matches(pattern: str) -> None:
    assert not accepts({"pattern": pattern}, '"a"')
    assert accepts({"pattern": pattern}, "1")
    assert accepts({"patternProperties": {pattern: False}}, '{"a":1}')
    with pytest.raises(SchemaError):
        compile_json_schema({"type": "string", "pattern": pattern})


@given(st.one_of(st.text(max_size=12), st.text("ab[](){}|*+?^$\\-,019.x:=!<>uc", max_size=14)))
@settings(max_examples=100, deadline=None)
def test_any_text_as_a_pattern_gives_a_grammar_or_a_schema_error(pattern: str) -> None:
    for schema in ({"pattern": pattern}, {"patternProperties": {pattern: {"type": "integer"}, "^a": {}}}):
        keyword, failure = "pattern", ""
        try:
            ByteGrammar(compile_json_schema(schema))
        except SchemaError as error:
            keyword = error.keyword
        except AssertionError as error:
            # The engine's own limit, which a SchemaError tells of when it is compiled for a vocabulary.
            failure = str(error)
        assert keyword in schema or keyword == "pattern"
        assert not failure or "can't determine if patternProperty" in failure


def test_counted_repetitions_of_what_may_stand_anywhere_are_short() -> None:
    assert accepts({"patternProperties": {"[a-z]{1,128}": {"type": "string"}}}, '{"xyz":"a"}')
    assert "{1,128}" not in compile_json_schema({"pattern": "[a-z]{1,128}"})


PIECES = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "a*", "(?:ab)+", "b?", "(?:a|bc)", "a{2}", "[a-c]{1,3}"])
REGEXES = st.tuples(st.sampled_from(["", "^"]), st.lists(PIECES, max_size=4).map("".join), st.sampled_from(["", "$"]))


@given(REGEXES, REGEXES, st.lists(st.text("abcx", max_size=5), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_automata_are_the_sets_of_their_patterns(one: Any, other: Any, texts: list[str]) -> None:
    a, b = Pattern.parse("".join(one)), Pattern.parse("".join(other))
    both, without = a.automaton.both(b.automaton), a.automaton.without(b.automaton)
    rest = a.automaton.complement()
    try:
        written = [None if x.empty else Pattern.of(x) for x in (both, without, rest)]
    except PatternError:
        return  # Some expressions are larger than their automata by far.
    for text in texts:
        wanted = (a.matches(text) and b.matches(text), a.matches(text) and not b.matches(text), not a.matches(text))
        assert tuple(x.contains(text) for x in (both, without, rest)) == wanted
        assert tuple(x is not None and x.matches(text) for x in written) == wanted


def test_automata_that_are_too_large_are_refused() -> None:
    with pytest.raises(PatternError, match="too large"):
        Automaton.of(Pattern.parse("^[ab]*a[ab]{14}$").node)
    with pytest.raises(SchemaError) as caught:
        compile_json_schema({"not": {"pattern": "^[ab]*a[ab]{14}$"}})
    assert (caught.value.pointer, caught.value.keyword) == ("/not", "pattern")


@pytest.mark.parametrize(
    ("schema", "keyword", "good", "bad"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems", [1, 2], [1, 1]),
        ({"properties": {"a": {"type": "string", "pattern": "^(?!x)"}}}, "pattern", {"a": "y"}, {"a": "xy"}),
        ({"patternProperties": {"(?=a)a": {"type": "integer"}}, **CLOSED}, "patternProperties", {"a": 1}, {"b": 1}),
        ({"not": {"multipleOf": 2}, "type": "integer"}, "multipleOf", 3, 4),
        ({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}], "type": "integer"}, "multipleOf", 3, 6),
    ],
)  # fmt: skip
def test_a_loosened_schema_lets_through_more_and_is_validated(schema: Any, keyword: str, good: Any, bad: Any) -> None:
    grammar, errors = loosen(schema, lambda left: ByteGrammar(compile_json_schema(left)))
    assert [error.keyword for error in errors] == [keyword]
    validator = Validator(Document(schema), lenient=True)
    assert grammar.accepts(json.dumps(good))
    assert validator.valid(good)
    assert not validator.valid(bad)


def test_what_names_no_keyword_is_not_loosened() -> None:
    with pytest.raises(SchemaError, match="no value satisfies"), warnings.catch_warnings():
        loosen(False, compile_json_schema)
