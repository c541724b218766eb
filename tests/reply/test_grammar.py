"""What a grammar lets through is read by the parser of the same format as calls that fit their tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import pytest

from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.errors import ToolError
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import FORMATS, find
from llama_cffi.reply.lark import quoted
from tests.support.replies import (
    SmallVocabulary,
    bfcl_schema,
    check_reply,
    compiled,
    random_text,
    read,
    reply_grammar,
    tool_rule,
)

# At length: `pytest -m conformance`.
pytestmark = pytest.mark.conformance

VOCABULARIES = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp" / "models"

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "note": {"type": "string", "minLength": 2, "maxLength": 5},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "where": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
ADD = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "boolean"}}, "required": ["a"]}
TOOLS = (ToolSpec("get_weather", WEATHER), ToolSpec("math.add", ADD), ToolSpec("now", {"type": "object"}))
ANSWER = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
JSON_ANSWER = tool_rule(ANSWER)

PLANS = {
    "required": ReplyRules(TOOLS, choice="required", reasoning="auto"),
    "one of one": ReplyRules(TOOLS[:1], choice="required", parallel=False, reasoning="auto"),
    "auto": ReplyRules(TOOLS),
    "auto, one": ReplyRules(TOOLS, parallel=False, reasoning="open"),
    "auto, answer": ReplyRules(TOOLS, content=JSON_ANSWER, reasoning="auto"),
    "answer": ReplyRules(content=JSON_ANSWER, reasoning="open"),
}
CALLING = [name for name in FORMATS if name != "plain"]


@pytest.mark.parametrize("special", [False, True], ids=["spelled", "tokens"])
@pytest.mark.parametrize("name", CALLING)
def test_random_texts_are_replies(name: str, special: bool) -> None:
    format = find(name)
    vocabulary = SmallVocabulary(format.controls, special, format)
    finished = n_calls = 0
    for rules in PLANS.values():
        grammar = reply_grammar(format, rules, vocabulary.token)
        assert grammar is not None
        start = compiled(grammar, vocabulary.engine)
        for seed in range(2 if n_calls or rules.choice != "required" else 8):
            text = random_text(start.deep_copy(), vocabulary.tokens, 0, seed=seed)
            if text is None:
                continue
            reply = check_reply(format, rules, text)
            finished += 1
            n_calls += len(reply.calls)
            if rules.content and not reply.calls:
                jsonschema.validate(json.loads(reply.text), ANSWER)
    assert finished >= 3
    assert n_calls >= 1


@pytest.mark.parametrize("name", CALLING)
def test_text_is_free(name: str) -> None:
    format = find(name)
    vocabulary = SmallVocabulary(format.controls, special=False)
    rules = ReplyRules(TOOLS, reasoning="off")
    start = compiled(str(reply_grammar(format, rules, vocabulary.token)), vocabulary.engine)
    prefix = {"functionary-v3.2": "all\n", "harmony": ""}.get(name, "")
    if name == "harmony":
        pytest.skip("its text stands in a channel")
    for text in ("a < b, <b>bold</b>, <tool, [x], {y}", '{"x": 1}', "Größe\n\n- one\n- two", "``` {} ```"):
        matcher = start.deep_copy()
        tokens = vocabulary(prefix + text)
        assert matcher.try_consume_tokens(tokens) == len(tokens), text
        assert matcher.is_accepting()
        assert read(format, rules, [prefix + text]).text == text


@pytest.mark.parametrize("name", ["hermes", "qwen-coder", "mistral", "gemma4"])
def test_an_opened_call_is_held_to_its_tool(name: str) -> None:
    begins = {
        "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {',
        "qwen-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n",
        "mistral": "[TOOL_CALLS]get_weather[ARGS]{",
        "gemma4": '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,',
    }
    format = find(name)
    vocabulary = SmallVocabulary(format.controls, special=False)
    start = compiled(str(reply_grammar(format, ReplyRules(TOOLS), vocabulary.token)), vocabulary.engine)
    good, bad = start.deep_copy(), start.deep_copy()
    tokens = vocabulary("Let me see. " + begins[name])
    assert good.try_consume_tokens(tokens) == len(tokens)
    assert not good.is_accepting()
    other = vocabulary(begins[name].replace("get_weather", "get_wether"))
    assert bad.try_consume_tokens(other) < len(other)


def test_nothing_to_hold_to_is_no_grammar() -> None:
    for name in FORMATS:
        format = find(name)
        assert reply_grammar(format, ReplyRules()) is None
        assert reply_grammar(format, ReplyRules(TOOLS, choice="none")) is None
        with pytest.raises(ToolError, match="required"):
            reply_grammar(format, ReplyRules(choice="required"))
    with pytest.raises(ToolError, match="this format has none"):
        reply_grammar(find("plain"), ReplyRules(TOOLS, choice="required"))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"type": "object", "minProperties": 1}, "'minProperties' at their top"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "require 'b'"),
        ({"type": "object", "properties": {"a<": {}}}, "a name that this format cannot write"),
        ({"type": "object", "properties": {"a": {"type": "array", "not": {"uniqueItems": True}}}}, "'not'"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": r"\bx"}}}, "'pattern'"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "'patternProperties' at their top"),
        ({"type": "object", "enum": [{"a": 1}]}, "'enum' at their top"),
        ({"$ref": "#/nowhere"}, "nothing in it"),
    ],
)
def test_what_arguments_one_by_one_cannot_keep_to_is_refused(parameters: dict[str, Any], words: str) -> None:
    rules = ReplyRules((ToolSpec("f", parameters),))
    with pytest.raises(ToolError, match=words):
        reply_grammar(find("qwen-coder"), rules)


def test_texts_keep_to_patterns_and_references() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^(a|b)[0-9]{2}$"},
            "free": {"type": "string", "pattern": r"^[a-z]/\d"},
            "list": {"$ref": "#/$defs/list"},
        },
        "required": ["code", "free", "list"],
        "$defs": {"list": {"type": ["array", "null"], "items": {"$ref": "#/$defs/list"}, "maxItems": 1}},
    }
    rules = ReplyRules((ToolSpec("f", parameters),), choice="required", reasoning="off")
    for name in ("qwen-coder", "glm", "deepseek-v4", "hermes"):
        vocabulary = SmallVocabulary((), special=False, format=find(name))
        start = compiled(str(reply_grammar(find(name), rules, vocabulary.token)), vocabulary.engine)
        texts = [random_text(start.deep_copy(), vocabulary.tokens, 0, seed=seed) for seed in range(5)]
        finished = [text for text in texts if text is not None]
        assert finished
        for text in finished:
            check_reply(find(name), rules, text)


# -- the same schema in every format

E = {"E": {"enum": ["x", "y"], "title": "E", "type": "string"}}


def taking(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The schema of a tool that takes ``a``."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], **more}


ANY_FORMAT: dict[str, dict[str, Any]] = {
    "an open object": taking({"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}}),
    "listed and others": taking(
        {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}}
    ),
    "one needed, and others": taking(
        {"type": "object", "properties": {"x": {"enum": [1]}}, "required": ["x"], "additionalProperties": {"const": 2}}
    ),
    "a text or null": taking({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}),
    "an Enum": taking({"$ref": "#/$defs/E"}, **{"$defs": E}),
    "an Enum with a default": taking({"allOf": [{"$ref": "#/$defs/E"}], "default": "x"}, **{"$defs": E}),
    "an Enum inside": taking({"type": "array", "items": {"$ref": "#/$defs/E"}, "maxItems": 2}, **{"$defs": E}),
    "annotations": taking({"type": "string", "example": "q", "x-foo": 1, "contentMediaType": "text/x", "title": "A"}),
    "a literal or a text": taking({"anyOf": [{"const": "auto", "type": "string"}, {"type": "string"}]}),
    "a date": taking({"type": "string", "format": "date"}),
    "a UUID or null": taking({"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]}),
    "a pattern": taking({"type": "string", "pattern": "^[a-z]{1,3}$"}),
    "a tuple": taking(
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "minItems": 2, "maxItems": 2}
    ),
    "a tuple and more": taking(
        {"type": "array", "prefixItems": [{"enum": [7]}, {"enum": ["q"]}], "items": {"type": "boolean"}, "maxItems": 4}
    ),
    "a long text": taking({"type": "string", "maxLength": 2000}),
    "a text with bounds": taking({"type": "string", "minLength": 3, "maxLength": 1000}),
    "some text": taking({"type": "string", "minLength": 1}),
    "a boolean or null": taking({"type": ["boolean", "null"]}),
    "one of two types": taking({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]}),
}


@pytest.mark.parametrize("name", CALLING)
def test_every_format_keeps_to_the_same_schemas(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    format = find(name)
    finished: dict[str, int] = dict.fromkeys(ANY_FORMAT, 0)
    for special in (False, True):
        vocabulary = SmallVocabulary(format.controls, special, format)
        for what, schema in ANY_FORMAT.items():
            rules = ReplyRules((ToolSpec("f", schema),), choice="required", parallel=False)
            start = compiled(str(reply_grammar(format, rules, vocabulary.token)), vocabulary.engine)
            for seed in range(2):
                text = random_text(start.deep_copy(), vocabulary.tokens, 0, seed=seed)
                if text is not None:
                    check_reply(format, rules, text)
                    finished[what] += 1
    with capsys.disabled():
        print(f"\n{name}: {sum(finished.values())} calls by {sum(map(bool, finished.values()))} schemas", end="")
    assert sum(map(bool, finished.values())) >= 15, finished


# -- real vocabularies


@contextmanager
def real_vocabulary(name: str) -> Iterator[tuple[Model, llguidance.LLTokenizer, list[bytes]]]:
    path = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip("no llama.cpp source in vendor/llama.cpp")
    with Model(path, ModelOptions(vocab_only=True)) as model:
        vocab = model.vocab
        pieces = [vocab.piece(token) for token in range(len(vocab))]

        class InputBuffer:
            tokens = pieces
            special_token_ids = sorted(vocab.control_tokens.values())
            bos_token_id = None
            eos_token_id = vocab.eos

            def __call__(self, text: bytes | str) -> list[int]:
                data = text if isinstance(text, bytes) else text.encode()
                return [int(token) for token in vocab.tokenize(data, add_special=False)]

        tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(InputBuffer()), n_vocab=len(vocab), eos_token=vocab.eos
        )
        yield model, tokenizer, pieces


@pytest.mark.parametrize(("vocabulary", "name"), [("qwen2", "hermes"), ("llama-bpe", "llama3")])
def test_random_texts_of_real_tokens(vocabulary: str, name: str) -> None:
    format = find(name)
    with real_vocabulary(vocabulary) as (model, tokenizer, pieces):
        controls, eos = model.vocab.control_tokens, model.vocab.eos
        assert eos is not None

        def token(text: str) -> str:
            return f"<[{controls[text]}]>" if text in controls else quoted(text)

        finished = 0
        for rules in (PLANS["required"], PLANS["auto"]):
            start = compiled(str(reply_grammar(format, rules, token)), tokenizer)
            for seed in (1, 2):
                text = random_text(start.deep_copy(), pieces, eos, seed=seed, n_tokens=40)
                if text is not None:
                    check_reply(format, rules, text)
                    finished += 1
    assert finished


# -- the Berkeley function-calling data


def tool_sets(assets: Path) -> list[tuple[ToolSpec, ...]]:
    sets = []
    for path in sorted((assets / "tool-schemas" / "bfcl").glob("BFCL_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            functions = json.loads(line)["function"]
            sets.append(tuple(ToolSpec(one["name"], bfcl_schema(one["parameters"])) for one in functions))
    return sets


def test_1448_tool_sets_compile(assets: Path) -> None:
    vocabulary = SmallVocabulary((), special=False)
    sets = tool_sets(assets)
    assert len(sets) == 1448
    for tools in sets:
        grammar = str(reply_grammar(find("hermes"), ReplyRules(tools)))
        assert not llguidance.LLMatcher.validate_grammar(grammar, vocabulary.engine)


@pytest.mark.parametrize("name", ["apertus", "deepseek-v4", "gemma4", "glm", "harmony", "lfm2", "llama3", "qwen-coder"])
def test_calls_of_the_berkeley_tools_fit(assets: Path, name: str) -> None:
    vocabulary = SmallVocabulary((), special=False, format=find(name))
    finished = refused = 0
    for seed, tools in enumerate(tool_sets(assets)[::120]):
        rules = ReplyRules(tools, choice="required", parallel=False)
        try:
            grammar = str(reply_grammar(find(name), rules))
        except ToolError:
            refused += 1
            continue
        text = random_text(compiled(grammar, vocabulary.engine), vocabulary.tokens, 0, seed=seed)
        if text is not None:
            check_reply(find(name), rules, text)
            finished += 1
    assert finished >= 3
    assert refused <= 2
