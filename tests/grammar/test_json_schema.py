"""JSON Schema under the constraint: the official suite, random schemas, and schemas that are refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from llama_cffi import Model, ModelOptions, Vocab
from llama_cffi.errors import GrammarError, SchemaError
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.matcher import Constraint
from tests.support.json_suite import accepts, accepts_some, cases, outcome
from tests.support.schema_table import DOCUMENT, table, written

pytest_plugins = ["tests.support.models"]

# What others wrote decides, at length: `pytest -m conformance`.
pytestmark = pytest.mark.conformance

LoadVocab = Callable[[str], Vocab]


@pytest.fixture(scope="module")
def load(llama_cpp_models: Path) -> Iterator[LoadVocab]:
    """Loads a vocabulary of llama.cpp's source once."""
    models: dict[str, Model] = {}

    def load(name: str) -> Vocab:
        if name not in models:
            models[name] = Model(llama_cpp_models / f"ggml-vocab-{name}.gguf", ModelOptions(vocab_only=True))
        return models[name].vocab

    yield load
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def vocab(load: LoadVocab) -> Vocab:
    return load("gpt-2")


def test_the_official_suite(vocab: Vocab, assets: Path) -> None:
    outcomes = [outcome(case, vocab) for case in cases(assets)]
    assert [failure for item in outcomes for failure in item.failed] == []
    assert written(DOCUMENT.read_text(encoding="utf-8")) == table(outcomes), "run python -m tests.support.schema_table"
    assert sum(not item.refused for item in outcomes) > 500


# -- random schemas

NAMES = ["a", "b", "ab", "c d", "é", 'q"q', "x/y~z"]
PATTERNS = ["^[a-c]+$", "a", "^x", "[0-9]{2,3}", "^(ab|c)*$", "^[^a]*$", "z$|^q"]


def bounds(low: str, high: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One bound, both in order, or none."""
    both = st.tuples(values, values).map(sorted)
    return st.one_of(
        st.just({}),
        values.map(lambda x: {low: x}),
        values.map(lambda x: {high: x}),
        both.map(lambda x: {low: x[0], high: x[1]}),
    )


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


def maybe(keyword: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(st.just({}), values.map(lambda x: {keyword: x}))


def kind(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.just({"type": name})


COUNTS = st.integers(0, 5)
DECIMALS = st.integers(-2000, 2000).map(lambda x: x / 100)
CONSTANTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-99, 99),
    DECIMALS,
    st.text(max_size=4),
    st.lists(st.integers(0, 3), max_size=2),
)
SCALARS = st.one_of(
    joined(
        kind("integer"), bounds("minimum", "maximum", st.integers(-300, 300)), maybe("multipleOf", st.integers(1, 7))
    ),
    joined(kind("integer"), bounds("exclusiveMinimum", "exclusiveMaximum", DECIMALS)),
    joined(
        kind("number"), bounds("minimum", "maximum", DECIMALS), maybe("multipleOf", st.sampled_from([0.5, 0.01, 3]))
    ),
    joined(kind("number"), bounds("exclusiveMinimum", "exclusiveMaximum", DECIMALS)),
    joined(kind("string"), bounds("minLength", "maxLength", COUNTS)),
    joined(kind("string"), maybe("pattern", st.sampled_from(PATTERNS)), maybe("maxLength", st.integers(3, 9))),
    st.lists(CONSTANTS, min_size=1, max_size=4).map(lambda x: {"enum": x}),
    CONSTANTS.map(lambda x: {"const": x}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    two = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        joined(kind("array"), st.just({}), inner.map(lambda x: {"items": x}), bounds("minItems", "maxItems", COUNTS)),
        joined(kind("array"), two.map(lambda x: {"prefixItems": x}), maybe("items", st.one_of(st.booleans(), inner))),
        joined(
            kind("object"),
            named.map(lambda x: {"properties": x}),
            maybe("required", st.lists(st.sampled_from(NAMES), max_size=2, unique=True)),
            maybe("additionalProperties", st.one_of(st.booleans(), inner)),
            maybe("patternProperties", st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=1)),
            bounds("minProperties", "maxProperties", st.integers(0, 3)),
        ),
        joined(
            kind("object"),
            named.map(lambda x: {"properties": x}),
            maybe("dependentRequired", st.just({"a": ["b"]})),
            maybe("propertyNames", st.sampled_from([{"pattern": "^[a-d ]+$"}, {"maxLength": 2}, {"enum": ["a", "b"]}])),
        ),
        two.map(lambda x: {"anyOf": x}),
        two.map(lambda x: {"oneOf": x}),
        two.map(lambda x: {"allOf": x}),
        st.tuples(inner, st.sampled_from([{"type": "string"}, {"const": 3}, {"required": ["a"]}])).map(
            lambda x: {"allOf": [x[0]], "not": x[1]}
        ),
        st.tuples(inner, inner).map(
            lambda x: {"if": {"type": "object", "required": ["a"]}, "then": x[0], "else": x[1]}
        ),
    )


SCHEMAS = st.recursive(SCALARS, containers, max_leaves=6)


def multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """``multipleOf`` of decimals; jsonschema divides binary floats."""
    if validator.is_type(instance, "number") and Fraction(repr(instance)) % Fraction(repr(step)):
        yield ValidationError(f"{instance} is no multiple of {step}")


Validator = extend(Draft202012Validator, {"multipleOf": multiple_of})  # type: ignore[no-untyped-call]


def generate(constraint: Constraint, vocab: Vocab, seed: int, *, limit: int = 80) -> str | None:
    """What random logits at temperature 2 write under the constraint; None when the limit comes first.

    After 30 tokens only what is short is drawn, where there is something, so that texts come to an end.
    """
    random = np.random.default_rng(seed)
    matcher, eog, out = constraint.start(), set(vocab.eog_tokens), b""
    n_tokens = vocab.n_tokens
    # Enough noise for every row: a softmax is drawn from by the largest sum of a logit and Gumbel noise.
    logits = np.tile(random.normal(size=n_tokens).astype(np.float32) / 2.0, 2)
    noise = np.tile(random.gumbel(size=n_tokens).astype(np.float32), 2)
    short = SHORT.get(n_tokens)
    if short is None:
        short = SHORT[n_tokens] = np.isin(np.array(vocab.pieces(), dtype=object), list(CLOSERS))
        short[list(eog)] = True
    for n in range(limit):
        allowed = np.unpackbits(matcher.mask().view(np.uint8), count=n_tokens, bitorder="little").view(np.bool_)
        if n > 30 and (allowed & short).any():
            allowed = allowed & short
        i, j = random.integers(n_tokens, size=2)
        row = logits[i : i + n_tokens] + noise[j : j + n_tokens]
        token = int(np.argmax(np.where(allowed, row, -np.inf)))
        assert matcher.accept(token)
        if token in eog:
            return out.decode()
        out += vocab.piece(token)
    return None


CLOSERS = {*(bytes([byte]) for byte in b'"]}:0123456789abz'), b"null", b"true"}
SHORT: dict[int, Any] = {}


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "gpt-2", "llama-spm"])
def test_what_random_models_write_is_valid(name: str, load: LoadVocab) -> None:
    vocab, counts = load(name), {"refused": 0, "cut": 0, "valid": 0}

    @settings(max_examples=200, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(SCHEMAS, st.integers(0, 2**32))
    def check(schema: Any, seed: int) -> None:
        try:
            constraint = GuidanceConstraint(vocab, compile_json_schema(schema))
        except SchemaError:
            counts["refused"] += 1
            return
        text = generate(constraint, vocab, seed)
        if text is None:
            counts["cut"] += 1
            return
        Validator(schema).validate(json.loads(text))
        counts["valid"] += 1

    check()
    assert counts["valid"] >= 80, counts
    assert counts["refused"] <= 60, counts


VALUES = st.recursive(
    st.one_of(CONSTANTS, st.text('abcxz0 qé"\\\n', max_size=4), st.integers(-350, 350)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text("abxz", max_size=2)), inner, max_size=3),
    ),
    max_leaves=5,
)


def test_accepted_is_what_jsonschema_finds_valid(vocab: Vocab) -> None:
    seen = {True: 0, False: 0}

    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=6))
    def check(schema: Any, values: list[Any]) -> None:
        try:
            constraint = GuidanceConstraint(vocab, compile_json_schema(schema))
        except SchemaError:
            return
        for value in values:
            valid = Validator(schema).is_valid(value)
            seen[valid] += 1
            assert accepts_some(constraint, vocab, value) == valid, value

    check()
    assert min(seen.values()) > 50, seen


# -- what is refused, and when


@pytest.mark.parametrize(
    ("schema", "pointer", "keyword"),
    [
        (False, "", ""),
        ({"enum": []}, "", "enum"),
        ({"anyOf": []}, "", "anyOf"),
        ({"type": []}, "", "type"),
        ({"type": "text"}, "", "type"),
        ({"minimum": "3"}, "", "minimum"),
        ({"multipleOf": 0}, "", "multipleOf"),
        ({"properties": {"a/b": {"required": "x"}}}, "/properties/a~1b", "required"),
        ({"type": "array", "uniqueItems": True}, "", "uniqueItems"),
        ({"properties": {"a": {"contains": {"const": 1}}}}, "/properties/a", "contains"),
        ({"format": "idn-hostname"}, "", "format"),
        ({"pattern": "(?=a)b"}, "", "pattern"),
        ({"pattern": "("}, "", "pattern"),
        ({"pattern": "^(a{1,1000}){1,1000}$"}, "", "pattern"),
        ({"$ref": "https://example.com/schema"}, "", "$ref"),
        ({"$ref": "#/$defs/missing"}, "", "$ref"),
        ({"$defs": {"a": {"$anchor": "x"}, "b": {"$anchor": "x"}}}, "/$defs/a", "$id"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "", "$schema"),
        ({"$dynamicRef": "#x"}, "", "$dynamicRef"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "/properties/a", "$ref"),
        ({"const": "\ud800"}, "", "const"),
        ({"const": float("nan")}, "", "const"),
        ({"const": {1, 2}}, "", "const"),
        ({"minimum": 2**60, "type": "integer"}, "", "minimum"),
        ({"items": 3}, "", "items"),
        ({"not": {"multipleOf": 2}}, "/not", "multipleOf"),
    ],
)  # fmt: skip
def test_refused_with_its_place(schema: Any, pointer: str, keyword: str) -> None:
    with pytest.raises(SchemaError) as caught:
        compile_json_schema(schema)
    assert (caught.value.pointer, caught.value.keyword) == (pointer, keyword)


def test_a_recursive_schema_is_followed(vocab: Vocab) -> None:
    tree = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    }
    constraint = GuidanceConstraint(
        vocab, compile_json_schema(tree | {"required": ["v"], "additionalProperties": False})
    )
    assert accepts(constraint, vocab, '{"v":1,"kids":[{"v":2,"kids":[{"v":3}]},{"v":4}]}')
    assert not accepts(constraint, vocab, '{"v":1,"kids":[{"v":2,"kids":[{"v":"3"}]}]}')


WIDE = {"type": "object", "properties": {f"property_{i}": {"type": "integer", "minimum": i} for i in range(16_000)}}
DEEP: dict[str, Any] = {}
NESTED: dict[str, Any] = {"type": "integer"}
for _ in range(300):
    DEEP = {"type": "array", "items": DEEP}
    NESTED = {"anyOf": [NESTED, {"type": "string"}]}
CHOICES = {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": -i}]} for i in range(1, 30)]}


@pytest.mark.parametrize(
    "schema",
    [WIDE, WIDE | {"additionalProperties": False}, {"const": "x" * 1_000_000}, DEEP, NESTED, CHOICES],
    ids=["wide", "closed", "long", "deep", "nested", "choices"],
)
def test_large_schemas_compile_or_are_refused_in_time(schema: Any, vocab: Vocab) -> None:
    start = time.perf_counter()
    try:
        GuidanceConstraint(vocab, compile_json_schema(schema)).start().mask()
    except (SchemaError, GrammarError) as error:
        outcome = str(error)[:100]
    else:
        outcome = "compiled"
    # A busy machine takes its time; what is without a limit takes hours.
    assert time.perf_counter() - start < 60, outcome


def test_whitespace_is_bounded(vocab: Vocab) -> None:
    constraint = GuidanceConstraint(vocab, compile_json_schema({"type": "array", "items": {"type": "integer"}}))
    assert accepts(constraint, vocab, "[1, 2]")
    assert accepts(constraint, vocab, json.dumps([1, 2], indent=4))
    assert accepts(constraint, vocab, "[\n\t1\n]")
    assert not accepts(constraint, vocab, "[  1]")
    assert not accepts(constraint, vocab, "[\n\n1]")
    assert not accepts(constraint, vocab, " [1]")
    assert not accepts(constraint, vocab, "[1] ")
