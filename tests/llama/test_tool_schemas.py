"""Tools and schemas that say more than a grammar can keep to, with ``on_unsupported="annotate"``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import pydantic
import pytest

from llama_cffi import JsonSchema, Llama
from llama_cffi.errors import OutputError, SchemaError, ToolError
from llama_cffi.grammar.values import SchemaWarning
from llama_cffi.prepare.tool_schemas import loosened_tools
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import FORMATS
from llama_cffi.reply.lark import quoted

TAGS = {"type": "array", "items": {"type": "string", "maxLength": 3}, "uniqueItems": True, "minItems": 2, "maxItems": 3}
NEVER = {"type": "string", "pattern": "^(?=zzz)", "maxLength": 2}
"""No grammar keeps to the pattern, and no value satisfies both."""


def tool(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": "note", "description": "Take a note.", "parameters": schema}


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(n_ctx=2048, n_seq_max=1, n_threads=1) as model:
        yield model


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "plain"])
def test_every_format_can_be_loosened(name: str) -> None:
    format = FORMATS[name]
    given = (
        ToolSpec("kept", tool(n={"type": "integer"})["parameters"]),
        ToolSpec("note", tool(tags=TAGS, size={"type": "integer", "not": {"enum": [3]}, "maximum": 9})["parameters"]),
        ToolSpec("many", {**tool(a={"$ref": "#/$defs/x~0y"})["parameters"], "$defs": {"x~y": TAGS}}),
    )
    with pytest.raises((SchemaError, ToolError)):
        format.grammar(ReplyRules(given), quoted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tools, validators = loosened_tools(format, given)
    told = [str(one.message).partition("annotation during generation: ")[2] for one in caught]
    assert told[0].startswith("tool 'note': schema at /properties/tags: 'uniqueItems' ")
    assert told[-1].startswith("tool 'many': schema at /$defs/x~0y: 'uniqueItems' ")
    assert {one.category for one in caught} == {SchemaWarning}
    assert format.grammar(ReplyRules(tools), quoted) is not None
    assert set(validators) == {"note", "many"}
    assert tools[0] == given[0]
    left = tools[1].parameters["properties"]
    assert left["tags"] == {key: value for key, value in TAGS.items() if key != "uniqueItems"}
    assert left["size"].items() >= {"type": "integer", "maximum": 9}.items()
    assert validators["note"].valid({"tags": ["a", "b"], "size": 2})
    assert not validators["note"].valid({"tags": ["a", "a"], "size": 2})
    assert not validators["note"].valid({"tags": ["a", "b"], "size": 3})
    assert not validators["many"].valid({"a": ["a", "a"]})


def test_parameters_that_no_value_satisfies_are_not_loosened() -> None:
    never = ToolSpec("note", tool(n={"type": "integer", "minimum": 3, "maximum": 1})["parameters"])
    with pytest.raises(SchemaError, match="no value satisfies"):
        loosened_tools(FORMATS["hermes"], (never,))


def test_a_call_is_validated_by_the_whole_schema(llm: Llama) -> None:
    options: dict[str, Any] = {"tool_choice": "required", "max_tokens": 300, "seed": 3}
    with pytest.raises(SchemaError, match="pattern"):
        llm.chat("Note it.", tools=[tool(text=NEVER)], **options)
    with (
        pytest.warns(SchemaWarning, match="tool 'note': .*'pattern'"),
        pytest.raises(OutputError, match=r"the call of 'note' do not satisfy .* could not enforce") as caught,
    ):
        llm.chat("Note it.", tools=[tool(text=NEVER)], on_unsupported="annotate", **options)
    assert "note" in caught.value.text
    with pytest.warns(SchemaWarning):
        reply = llm.chat("Note it.", tools=[tool(tags=TAGS)], on_unsupported="annotate", **options)
    (call,) = reply.tool_calls
    assert len(set(call.arguments["tags"])) == len(call.arguments["tags"]) >= 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm.chat("Note it.", tools=[tool(n={"type": "integer"})], on_unsupported="annotate", **options)


def test_schemas_of_a_call_are_loosened(llm: Llama) -> None:
    with pytest.raises(SchemaError, match="pattern"):
        llm.generate("", schema=NEVER, max_tokens=60)
    with pytest.warns(SchemaWarning, match="pattern"), pytest.raises(OutputError, match="does not satisfy the schema"):
        llm.generate("", schema=NEVER, max_tokens=100, seed=1, on_unsupported="annotate")
    with pytest.raises(SchemaError, match="pattern"):  # it says so for itself
        llm.generate("", schema=JsonSchema(NEVER), max_tokens=60, on_unsupported="annotate")
    with pytest.raises(ValueError, match="on_unsupported must be"):
        llm.generate("", schema=NEVER, on_unsupported="ignore")  # type: ignore[call-overload]


class Odd(pydantic.BaseModel):
    word: Annotated[str, pydantic.Field(json_schema_extra={"pattern": "^(?=[a-z])", "maxLength": 3})]


def test_types_are_loosened(llm: Llama) -> None:
    with pytest.raises(SchemaError, match="pattern"):
        llm.generate("", schema=Odd, max_tokens=60)
    with pytest.warns(SchemaWarning, match="pattern"):
        found = llm.generate("", schema=Odd, max_tokens=500, seed=1, on_unsupported="annotate")
    assert isinstance(found.parsed, Odd)
