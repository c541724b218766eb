"""Constraints: matchers over real vocabularies, and what ``schema=`` may be."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import pytest
from typing_extensions import TypedDict

from llama_cffi import Model, ModelOptions, Vocab
from llama_cffi.errors import ClosedError, OutputError, SchemaError
from llama_cffi.grammar.guidance import GuidanceConstraint, GuidanceTokenizer
from llama_cffi.grammar.matcher import Matcher
from llama_cffi.grammar.native import NativeConstraint
from llama_cffi.grammar.schema import compile_schema
from llama_cffi.grammar.values import GBNF, JsonSchema, Lark, Lazy, Regex, SchemaWarning
from tests.support.json_suite import accepts

pytest_plugins = ["tests.support.models"]


@pytest.fixture(scope="module")
def vocab(llama_cpp_models: Path) -> Iterator[Vocab]:
    with Model(llama_cpp_models / "ggml-vocab-llama-bpe.gguf", ModelOptions(vocab_only=True)) as model:
        yield model.vocab


@pytest.fixture(scope="module")
def spm(llama_cpp_models: Path) -> Iterator[Vocab]:
    with Model(llama_cpp_models / "ggml-vocab-llama-spm.gguf", ModelOptions(vocab_only=True)) as model:
        yield model.vocab


def allowed(matcher: Matcher, n_tokens: int) -> set[int]:
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert not bits[n_tokens:].any()
    return set(np.flatnonzero(bits).tolist())


def follow(matcher: Matcher, vocab: Vocab, text: str) -> bool:
    return all(matcher.accept(token) for token in vocab.tokenize(text, add_special=False).tolist())


# -- matchers


def test_bulk_questions_to_a_vocabulary_agree_with_single_ones(vocab: Vocab) -> None:
    some = [*range(1000), *range(vocab.n_tokens - 300, vocab.n_tokens)]
    pieces, attrs = vocab.pieces(), vocab.attrs()
    assert len(pieces) == len(attrs) == vocab.n_tokens
    assert [pieces[t] for t in some] == [vocab.piece(t) for t in some]
    assert [attrs[t] for t in some] == [vocab.attr(t) for t in some]
    assert list(vocab.eog_tokens) == [t for t in range(vocab.n_tokens) if vocab.is_eog(t)]


SOURCES = [Regex("ab+|c"), GBNF('root ::= "a" "b"+ | "c"'), Lark('start: "a" "b"+ | "c"'), ["ab", "abb", "c"]]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_a_matcher_says_what_its_mask_says(source: Any, vocab: Vocab) -> None:
    constraint = compile_schema(source, vocab).constraint
    for text in ("", "a", "ab", "c"):
        matcher = constraint.start()
        assert follow(matcher, vocab, text)
        tokens = allowed(matcher, vocab.n_tokens)
        assert matcher.complete == (vocab.eog_tokens[0] in tokens) == (text in ("ab", "c"))
        for token in [*tokens, *range(60, 100), *vocab.eog_tokens, 128_000]:
            fresh = constraint.start()
            assert follow(fresh, vocab, text)
            assert fresh.accept(token) == (token in tokens), (text, token)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_a_refusal_changes_nothing(source: Any, vocab: Vocab) -> None:
    matcher = compile_schema(source, vocab).constraint.start()
    x, a, b = (int(vocab.tokenize(sign, add_special=False)[0]) for sign in "xab")
    before = allowed(matcher, vocab.n_tokens)
    for token in (x, b, *vocab.eog_tokens):
        assert not matcher.accept(token)
    assert allowed(matcher, vocab.n_tokens) == before
    assert matcher.accept(a)
    assert not matcher.complete
    assert matcher.accept(b)
    assert matcher.complete
    assert matcher.accept(vocab.eog_tokens[-1])


@pytest.mark.parametrize("engine", ["llguidance", "llama.cpp"])
def test_an_ended_text_takes_only_an_end(engine: Literal["llguidance", "llama.cpp"], vocab: Vocab) -> None:
    matcher = compile_schema(GBNF('root ::= "ab"', engine=engine), vocab).constraint.start()
    assert not matcher.ended
    assert follow(matcher, vocab, "ab")
    assert matcher.complete
    # To know it, llama.cpp would have to look at the whole vocabulary.
    assert matcher.ended == (engine == "llguidance")
    assert allowed(matcher, vocab.n_tokens) == set(vocab.eog_tokens)
    matcher.close()
    matcher.close()
    with pytest.raises(ClosedError):
        matcher.accept(0)


def test_matchers_of_a_constraint_are_independent(vocab: Vocab) -> None:
    for constraint in (NativeConstraint(vocab, 'root ::= "a"+'), compile_schema(Regex("a+"), vocab).constraint):
        one, two = constraint.start(), constraint.start()
        assert follow(one, vocab, "aaa")
        assert one.complete
        assert not two.complete


def test_grammars_are_compiled_once(vocab: Vocab) -> None:
    assert GuidanceTokenizer.of(vocab) is GuidanceTokenizer.of(vocab)
    grammar = '{"grammars": [{"lark_grammar": "start: \\"only here\\""}]}'
    GuidanceConstraint(vocab, grammar)
    assert GuidanceTokenizer.of(vocab).compile(grammar) is GuidanceTokenizer.of(vocab).compile(grammar)


def test_control_tokens_are_no_part_of_a_text(vocab: Vocab) -> None:
    matcher = compile_schema(Regex("(?:.|\\n)*"), vocab).constraint.start()
    control = set(vocab.control_tokens.values())
    assert allowed(matcher, vocab.n_tokens) & control == set(vocab.eog_tokens)


# -- what schema= may be


class Color(enum.Enum):
    RED = "red"
    BLUE = "dark blue"


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0, le=130)
    color: Color | None = None


class Even(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Movie(TypedDict):
    title: str
    year: int


@pytest.mark.parametrize(
    ("schema", "text", "value", "wrong"),
    [
        ({"type": "integer", "minimum": 3}, "7", 7, "2"),
        (True, '{"a":[1,null]}', {"a": [1, None]}, "{"),
        (Person, '{"name":"Ann","age":3}', Person(name="Ann", age=3), '{"name":"Ann","age":131}'),
        (Person, '{"name":"B","age":3,"color":"red"}', Person(name="B", age=3, color=Color.RED), '{"name":"B"}'),
        (Point, '{"x":1,"y":2.5}', Point(1, 2.5), '{"x":1.5,"y":1}'),
        (Movie, '{"title":"M","year":1931}', Movie(title="M", year=1931), '{"title":"M","year":1931,"x":1}'),
        (Color, "dark blue", Color.BLUE, "green"),
        (Literal["a", "b", 3], "3", 3, "c"),
        (list[int], "[1,2]", [1, 2], '["a"]'),
        (set[str], '["a","b"]', {"a", "b"}, "[1]"),
        (int | None, "null", None, "1.5"),
        (date, '"2024-02-29"', date(2024, 2, 29), '"2023-02-29"'),
        (Decimal, "1.25", Decimal("1.25"), "x"),
        (["yes", "no [maybe]"], "no [maybe]", "no [maybe]", "no"),
        (("ja", "nein"), "ja", "ja", "j"),
        (re.compile(r"\d{3}-\d{4}"), "555-1234", "555-1234", "5555"),
        (Regex("[a-f]+|x/y"), "x/y", "x/y", "g"),
        (GBNF('root ::= [a-z]* "a"'), "banana", "banana", "bananas"),
        (GBNF('top ::= "x" | "y"', root="top", engine="llguidance"), "y", "y", "z"),
        (Lark('start: "<" /[0-9]+/ ">"'), "<12>", "<12>", "<>"),
        (Lazy(list[int], "```json\n"), "Sure:\n```json\n[1,2]", [1, 2], "Sure:\n```json\nno"),
        (Lazy(list[int], "```json\n"), "no list today", None, "```json\n["),
        (Lazy(["a", "b"], ("<<", "[["), end=">>"), "x <<a>> y [[b>> z", ("a", "b"), "x <<c>>"),
        (Lazy({"type": "string"}, "<", end=">"), '<"a>b"> end', ("a>b",), '<"a" end'),
    ],
)
def test_what_a_schema_may_be(schema: Any, text: str, value: Any, wrong: str, vocab: Vocab, spm: Vocab) -> None:
    for one in (vocab, spm):
        structure = compile_schema(schema, one)
        assert accepts(structure.constraint, one, text)
        assert not accepts(structure.constraint, one, wrong)
    assert structure.parse(text) == value
    assert type(structure.parse(text)) is type(value)


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        (Person, {"": None, '{"name": "An': {"name": "An"}, '{"name": "Ann", "age"': {"name": "Ann"}}),
        (["yes", "no"], {"y": None, "yes": "yes"}),
        (Regex("a+"), {"": None, "aa": "aa"}),
        (Lazy(list[int], "go:"), {"well, ": None, "well, go:": None, "go:[1, 2": [1, 2], "go:[1, 2,": [1, 2]}),
        (Lazy(list[int], "<", end=">"), {"<[1]> <[2": ([1], [2]), "a": ()}),
    ],
)
def test_partial(schema: Any, texts: dict[str, Any], vocab: Vocab) -> None:
    structure = compile_schema(schema, vocab)
    assert {text: structure.partial(text) for text in texts} == texts


def test_a_validator_that_refuses(vocab: Vocab) -> None:
    structure = compile_schema(Even, vocab)
    assert accepts(structure.constraint, vocab, '{"n":3}')
    with pytest.raises(OutputError, match="odd") as caught:
        structure.parse('{"n":3}')
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)
    assert caught.value.text == '{"n":3}'


def test_an_annotated_schema_is_reported_and_validated(vocab: Vocab) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with pytest.raises(SchemaError, match="uniqueItems"):
        compile_schema(JsonSchema(schema), vocab)
    with pytest.warns(SchemaWarning, match="uniqueItems"):
        structure = compile_schema(JsonSchema(schema, on_unsupported="annotate"), vocab)
    assert [(error.pointer, error.keyword) for error in structure.loosened] == [("", "uniqueItems")]
    assert accepts(structure.constraint, vocab, "[1,1]")
    assert not accepts(structure.constraint, vocab, '["a"]')
    assert structure.parse("[1,2]") == [1, 2]
    with pytest.raises(OutputError, match="does not satisfy the schema"):
        structure.parse("[1,1]")


class NoSchema:
    pass


def test_schemas_compare_and_hash_as_json_does() -> None:
    one, true = JsonSchema({"const": 1, "title": "a"}), JsonSchema({"const": True, "title": "a"})
    assert one == JsonSchema({"title": "a", "const": 1.0})
    assert len({one, true, JsonSchema({"title": "a", "const": 1.0})}) == 2
    assert one != JsonSchema({"const": 1, "title": "a"}, strict=True)
    assert one != {"const": 1, "title": "a"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Regex("("),
        lambda: Regex(r"(a)\1"),
        lambda: Regex("(?<=a)b"),
        lambda: Regex(""),
        lambda: Regex("a\0"),
        lambda: Regex("\ud800"),
        lambda: Regex("(a{1,1000}){1,1000}"),
        lambda: GBNF(""),
        lambda: GBNF("root ::= \ud800"),
        lambda: GBNF("x", engine="other"),  # type: ignore[arg-type]
        lambda: Lark("  "),
        lambda: Lazy(int, ()),
        lambda: Lazy(int, ""),
        lambda: Lazy(Lazy(int, "a"), "b"),
        lambda: GBNF("root ::= ("),
        lambda: GBNF("root ::= nothing"),
        lambda: GBNF("root ::= nothing", engine="llguidance"),
        lambda: GBNF('a ::= "a"', engine="llguidance"),
        lambda: Lark("start: nothing"),
        list,
        lambda: [""],
        lambda: ["a", "a"],
        lambda: ["a", ["b"]],
        lambda: ["a\0"],
        lambda: ["\ud800"],
        lambda: re.compile("a", re.IGNORECASE),
        lambda: re.compile(b"a"),
        lambda: False,
        lambda: {"type": "text"},
        lambda: {1: 2},
        lambda: JsonSchema({"minLenght": 3}, strict=True),
        lambda: JsonSchema([1]),
        lambda: JsonSchema({}, on_unsupported="ignore"),  # type: ignore[arg-type]
        lambda: None,
        lambda: "a",
        lambda: NoSchema,
        lambda: Literal[1, "1"],
    ],
)
def test_refused_before_anything_is_generated(make: Any, vocab: Vocab) -> None:
    with pytest.raises(SchemaError) as caught:
        compile_schema(make(), vocab)
    assert str(caught.value)


def test_values_are_frozen_and_say_what_they_are() -> None:
    assert repr(Regex("a")) == "Regex(pattern='a')"
    assert {Regex("a"), Regex("a"), Lark("start: x")} == {Regex("a"), Lark("start: x")}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Regex("a").pattern = "b"  # type: ignore[misc]
