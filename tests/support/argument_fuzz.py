"""Random schemas of arguments in the formats that write arguments one by one, with ``jsonschema`` as the judge.

In both directions: what the grammar writes is valid when it is read, and what is valid can be written.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llama_cffi.errors import ToolError
from llama_cffi.grammar.equality import json_key
from llama_cffi.reply.format import ReplyFormat, ReplyRules, ToolSpec
from llama_cffi.reply.formats import find
from tests.support.byte_grammar import ByteGrammar, SpellingSearch
from tests.support.replies import SmallVocabulary, compiled, random_text, read, reply_grammar
from tests.support.schema_fuzz import _BREAKS, Findings, InstanceMaker, Judge, SchemaMaker

_OTHERS = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "if"}


def closed(schema: Any) -> Any:
    """The schema as it is meant of a tool: an object that lists properties takes no others."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for keyword, inner in schema.items():
        if keyword in ("properties", "patternProperties", "dependentSchemas"):
            out[keyword] = {name: closed(one) for name, one in inner.items()}
        else:
            out[keyword] = inner if keyword in ("const", "enum") else closed(inner)
    if "properties" in out and not out.keys() & _OTHERS:
        out["additionalProperties"] = False
    return out


class Tags(SpellingSearch):
    """JSON between two tags."""

    before, after = "", ""

    def whole(self, value: Any) -> Iterator[tuple[str, Any]]:
        """What stands in front of a value, and the value as JSON, or as a text (in a list of one)."""
        yield self.before, value
        if isinstance(value, str):
            yield self.before, [value]

    def accepts(self, value: Any, is_read: Callable[[str], bool]) -> bool:
        """Whether a call can be written that is read as one with this value."""

        def good() -> bool:
            return self._matcher.is_accepting() and is_read("".join(self.written))

        for before, written in self.whole(value):
            if isinstance(value, str) and isinstance(written, list):
                if self.text(f"{before}{value}{self.after}", good):
                    return True
            elif self.found(written, before, self.after, good):
                return True
        return False


class QwenCoder(Tags):
    before = "<tool_call>\n<function=f>\n<parameter=a>\n"
    after = "\n</parameter>\n</function>\n</tool_call>"


class MiniCpm(Tags):
    before, after = '<function name="f"><param name="a">', "</param></function>"


class DeepSeek(Tags):
    _CALL = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string='  # noqa: RUF001
    after = "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"  # noqa: RUF001

    def whole(self, value: Any) -> Iterator[tuple[str, Any]]:
        is_text = isinstance(value, str)
        yield f'{self._CALL}"{"true" if is_text else "false"}">', [value] if is_text else value


class KimiK3(Tags):
    _CALL = '<|open|>tools<|sep|><|open|>call tool="f" index="0"<|sep|><|open|>argument key="a" type='
    after = "<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>"

    def whole(self, value: Any) -> Iterator[tuple[str, Any]]:
        names = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object"}
        name = names.get(type(value), "number")
        yield f'{self._CALL}"{name}"<|sep|>', [value] if name == "string" else value


class Gemma(Tags):
    before, after = "<|tool_call>call:f{a:", "}<tool_call|>"

    def keys(self, key: str) -> Iterator[str]:
        yield f"{key}:"

    def scalars(self, value: Any) -> Iterator[str]:
        return iter([f'<|"|>{value}<|"|>']) if isinstance(value, str) else super().scalars(value)

    def whole(self, value: Any) -> Iterator[tuple[str, Any]]:
        yield self.before, value


class Lfm2(Gemma):
    comma = ", "
    before, after = "<|tool_call_start|>[f(a=", ")]<|tool_call_end|>"

    def keys(self, key: str) -> Iterator[str]:
        yield f"'{key}': "

    def scalars(self, value: Any) -> Iterator[str]:
        if value is None or isinstance(value, (bool, str)):
            return iter([repr(value)])
        return super().scalars(value)


WAYS: dict[str, type[Tags]] = {
    "qwen-coder": QwenCoder, "minicpm": MiniCpm, "deepseek-v4": DeepSeek, "kimi-k3": KimiK3, "gemma4": Gemma,
    "lfm2": Lfm2,
}  # fmt: skip


def _writable(value: Any, name: str) -> bool:
    """Whether a format can write a value at all: its keys, and the texts that stand in quotes of its own."""
    if isinstance(value, dict):
        named = issubclass(WAYS[name], Gemma)
        keys = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", key) for key in value) if named else True
        return keys and all(_writable(inner, name) for inner in value.values())
    if isinstance(value, list):
        return all(_writable(inner, name) for inner in value)
    return not (isinstance(value, str) and issubclass(WAYS[name], Gemma) and re.search(r"[\"'\\]", value))


def compare(name: str, seed: int, n_schemas: int, per_schema: int, walks: int = 2) -> Findings:
    """Put instances of random schemas to the grammar of a format and to jsonschema, and read what chance writes."""
    rng, found, format = random.Random(seed), Findings(), find(name)
    vocabulary = SmallVocabulary((), special=False, format=format)
    for number in range(n_schemas):
        schema = SchemaMaker(rng).schema(depth=2)
        parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        rules = ReplyRules((ToolSpec("f", parameters),), choice="required", reasoning="off", parallel=False)
        label = f"{name}, seed {seed}, schema {number}: {json.dumps(schema, ensure_ascii=False)}"
        judge = Judge(closed(schema))
        try:
            text = str(reply_grammar(format, rules))
        except ToolError as error:
            found.counts["refused"] += 1
            found.refusals[re.sub(r"'[^']*'|[0-9]+", "_", str(error))] += 1
            continue
        try:
            grammar, maker = ByteGrammar(text), InstanceMaker(rng, schema)
            start = compiled(text, vocabulary.engine)
        except AssertionError as error:
            found.wrong.append(f"{label}: {str(error)[:500]}")
            continue
        for _ in range(per_schema):
            value = maker.instance()
            valid = judge.is_valid(value)
            search = grammar.search(WAYS[name])
            assert isinstance(search, Tags)
            accepted = search.accepts(value, partial(_is_read_as, format, rules, value))
            if search.left < 0 or (valid and not _writable(value, name)):
                found.counts["undecided"] += 1
                continue
            found.counts["valid" if valid else "invalid"] += 1
            if accepted != valid:
                found.wrong.append(f"{label}: {json.dumps(value, ensure_ascii=False)} is {valid=}, {accepted=}")
        for walk in range(walks):
            written = random_text(start.deep_copy(), vocabulary.tokens, 0, seed=seed + walk, n_tokens=300)
            found.counts["walks" if written is not None else "walks cut"] += 1
            if written is None:
                continue
            given = _given(format, rules, written)
            if not _BREAKS.search(json.dumps(given, ensure_ascii=False)) and not judge.is_valid(given):
                found.wrong.append(f"{label}: {written!r} was written, and is read as {given}")
    return found


def _is_read_as(format: ReplyFormat, rules: ReplyRules, value: Any, text: str) -> bool:
    return json_key(_given(format, rules, text)) == json_key(value)


def _given(format: ReplyFormat, rules: ReplyRules, text: str) -> Any:
    """The value of the one argument in the one call of a reply."""
    (call,) = read(format, rules, [text]).calls
    assert call.complete, text
    return json.loads(call.arguments)["a"]
