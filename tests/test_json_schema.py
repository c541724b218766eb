"""JSON Schema under the constraint: the official suite, random schemas, and schemas that are refused."""

from __future__ import annotations

import json
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
from llama_cffi.errors import SchemaError
from llama_cffi.text.constraint.guidance import GuidanceConstraint
from llama_cffi.text.constraint.json_schema import compile_json_schema
from llama_cffi.text.constraint.matcher import Constraint
from tests.support.json_suite import accepts_some, cases, outcome
from tests.support.schema_table import DOCUMENT, table, written

pytest_plugins = ["tests.support.models"]

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


Validator = extend(Draft202012Validator, {"multipleOf": multiple_of})


def generate(constraint: Constraint, vocab: Vocab, seed: int, *, limit: int = 120) -> str | None:
    """What random logits at temperature 2 write under the constraint; None when the limit comes first.

    After 30 tokens only what is short is drawn, where there is something, so that texts come to an end.
    """
    random = np.random.default_rng(seed)
    matcher, eog, out = constraint.start(), set(vocab.eog_tokens), b""
    short = SHORT.setdefault(vocab.n_tokens, [t for t, piece in enumerate(vocab.pieces()) if piece in CLOSERS])
    for n in range(limit):
        allowed = np.flatnonzero(np.unpackbits(matcher.mask().view(np.uint8), bitorder="little"))
        if n > 30:
            closing = np.intersect1d(allowed, [*short, *eog])
            allowed = closing if closing.size else allowed
        logits = random.normal(size=allowed.size) * 4 / 2.0
        odds = np.exp(logits - logits.max())
        token = int(random.choice(allowed, p=odds / odds.sum()))
        assert matcher.accept(token)
        if token in eog:
            return out.decode()
        out += vocab.piece(token)
    return None


CLOSERS = {*(bytes([byte]) for byte in b'"]}:0123456789abz'), b"null", b"true"}
SHORT: dict[int, list[int]] = {}


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
    assert min(seen.values()) > 100, seen
