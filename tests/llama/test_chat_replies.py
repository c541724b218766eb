"""Replies with tools, schemas and reasoning, from messages to parsed calls, with a model that knows none of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from llama_cffi import FinishReason, Llama, Regex
from llama_cffi.engine.request import Request
from llama_cffi.errors import (
    IncompleteOutput,
    MessageError,
    PromptError,
    SchemaError,
    ToolError,
    ToolLimitError,
)
from llama_cffi.grammar.json_schema import json_expression
from llama_cffi.grammar.tool_form import tool_form
from llama_cffi.prepare.chat import prepare_chat
from llama_cffi.prompt.tools import Tool
from llama_cffi.reply.formats import FORMATS
from llama_cffi.reply.reply_reader import ReplyPlan, ReplyReader
from llama_cffi.spec import ChatSpec, ToolsSpec
from llama_cffi.tool_loop import ToolLoop, ToolResult
from tests.reply.test_grammar import tool_sets

pytest_plugins = ["tests.support.models"]

ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n"
)


Word = Annotated[str, Field(max_length=8)]  # a model that knows nothing would never end a longer one


def weather(city: Word, unit: Literal["C", "F"] = "C", days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: Where.
    """
    return f"{days} days of rain in {city}, 7 {unit}"


PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
DEFINITION = {"type": "function", "function": {"name": "get_weather", "description": "", "parameters": PARAMETERS}}
OTHER = {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}


def prepared(llm: Llama, messages: Any, **options: Any) -> tuple[ReplyPlan, Request]:
    """How a reply would be read, and what would be computed."""
    found = prepare_chat(ChatSpec(messages, options), llm._runtime.formats, llm._runtime.defaults)  # type: ignore[arg-type]
    assert isinstance(found.reader, ReplyReader)
    return found.reader._plan, found.request


@pytest.fixture(scope="module")
def demo() -> Iterator[Llama]:
    with Llama.demo(n_ctx=4096, n_threads=1, n_seq_max=2) as llm:
        yield llm


# -- calls


@pytest.mark.parametrize("prefix", ["", "So"])
def test_tokens_are_those_that_a_reply_goes_on_from(demo: Llama, prefix: str) -> None:
    """Also of tools, which this template has no place for."""
    options: Any = {"tools": [DEFINITION, OTHER], "prefix": prefix}
    _, request = prepared(demo, ASK, **options)
    assert demo.tokenize_chat(ASK, **options).tolist() == list(request.prompt)
    assert len(request.prompt) > len(demo.tokenize_chat(ASK, prefix=prefix))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"plain"}))
def test_a_required_call_in_every_format(demo: Llama, name: str) -> None:
    reply = demo.chat(
        ASK, tools=[DEFINITION], tool_choice="required", reply_format=name, reasoning_budget=8, max_tokens=400, seed=3,
        parallel_tool_calls=False,
    )  # fmt: skip
    (call,) = reply.tool_calls
    assert call.name == "get_weather"
    jsonschema.validate(dict(call.arguments), PARAMETERS)
    assert reply.finish_reason is FinishReason.TOOL_CALLS
    assert reply.text.strip() == ""
    assert reply.message["tool_calls"][0]["function"]["name"] == "get_weather"


TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct.jinja": "hermes",
    "meta-llama-Llama-3.1-8B-Instruct.jinja": "llama3",
    "mistralai-Mistral-Nemo-Instruct-2407.jinja": "mistral-nemo",
    "Qwen3-Coder.jinja": "qwen-coder",
    "openai-gpt-oss-120b.jinja": "harmony",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja": "command-r7b",
}


@pytest.mark.parametrize("file", TEMPLATES)
def test_the_template_says_the_format(demo: Llama, llama_cpp_models: Path, file: str) -> None:
    path = llama_cpp_models / "templates" / file
    if not path.is_file():
        pytest.skip(f"llama.cpp's source has no {file}")
    options: dict[str, Any] = {
        "chat_template": path, "tools": [DEFINITION, OTHER], "max_tokens": 300, "seed": 1, "reasoning_budget": 8,
        "temperature": 0.7, "parallel_tool_calls": False,
    }  # fmt: skip
    assert prepared(demo, ASK, **options)[0].format.name == TEMPLATES[file]
    reply = demo.chat(ASK, tool_choice="get_weather", **options)
    assert {call.name for call in reply.tool_calls} == {"get_weather"}
    # What was called is told again in the next turn, by the same template.
    answers = [
        {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": "rain"} for call in reply.tool_calls
    ]
    again = demo.render_chat([*ASK, reply.message, *answers], chat_template=path, tools=options["tools"])
    assert json.dumps(reply.tool_calls[0].arguments["city"], ensure_ascii=False)[1:-1] in again


def test_a_call_grows(demo: Llama) -> None:
    chunks = list(demo.stream_chat(ASK, tools=[DEFINITION], tool_choice="required", max_tokens=300, seed=5))
    reply = chunks[-1].reply
    assert reply is not None
    assert all(chunk.reply is None for chunk in chunks[:-1])
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    for i, call in enumerate(reply.tool_calls):
        mine = [delta for delta in deltas if delta.index == i]
        assert {(delta.id, delta.name) for delta in mine} == {(call.id, call.name)}
        assert mine[0].arguments == ""
        assert json.loads("".join(delta.arguments for delta in mine)) == call.arguments
        assert len(mine) > 3
    assert reply.raw.count("get_weather") >= len(reply.tool_calls)


def test_the_model_is_told_of_the_tools(demo: Llama) -> None:
    # The demo model's template knows nothing of tools.
    plan, request = prepared(demo, ASK, tools=[weather])
    text = demo.detokenize(request.prompt)
    assert plan.format.name == "generic"
    assert '"name": "weather"' in text
    assert "Tell the weather." in text
    system = [{"role": "system", "content": "Be brief."}, *ASK]
    _, request = prepared(demo, system, tools=[weather])
    assert demo.detokenize(request.prompt).count("system\n") == 1
    call = {"id": "1", "function": {"name": "weather", "arguments": "{}"}}
    spoken: list[dict[str, Any]] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "rain<|im_end|>"},
    ]
    _, request = prepared(demo, spoken, tools=[weather])
    text = demo.detokenize(request.prompt)
    assert '{"name": "weather", "arguments": {}}' in text
    assert "The function weather returned: rain<|im_end|>" in text
    end = demo.model.vocab.control_tokens["<|im_end|>"]
    assert list(request.prompt).count(end) == 4  # system, user, assistant, result: none by the result itself


def test_choices(demo: Llama) -> None:
    options: dict[str, Any] = {"tools": [DEFINITION, OTHER], "max_tokens": 100, "temperature": 0}
    assert demo.chat(ASK, tool_choice="none", **options).tool_calls == ()
    chosen = {"type": "function", "function": {"name": "stop"}}
    assert [call.name for call in demo.chat(ASK, tool_choice=chosen, **options).tool_calls][:1] == ["stop"]
    with pytest.raises(ToolError, match="nor one of the tools: get_weather, stop"):
        demo.chat(ASK, tool_choice="go", **options)
    with pytest.raises(ToolError, match="there are no tools"):
        demo.chat(ASK, tool_choice="required")
    with pytest.raises(ToolError, match=r"tools\[1\]: the name"):
        demo.chat(ASK, tools=[DEFINITION, DEFINITION])
    with pytest.raises(SchemaError, match="contains"):
        demo.chat(ASK, tools=[Tool("f", "", {"type": "object", "properties": {"a": {"contains": {"type": "null"}}}})])
    with pytest.raises(ValueError, match="no reply format"):
        demo.chat(ASK, reply_format="own")


def test_a_call_that_is_cut(demo: Llama) -> None:
    with pytest.raises(IncompleteOutput, match="inside of a call of get_weather") as caught:
        demo.chat(ASK, tools=[DEFINITION], tool_choice="required", max_tokens=40, seed=1, reply_format="hermes")
    assert caught.value.completion.tool_calls == ()
    assert "get_weather" in caught.value.completion.raw


# -- running tools


def test_tools_run_until_there_is_an_answer(demo: Llama) -> None:
    run = demo.run_tools(ASK, tools=[weather], tool_choice="required", max_tokens=300, seed=1, temperature=0.5)
    assert run.results
    assert all("days of rain" in result.content for result in run.results)
    assert run.reply.tool_calls == ()
    assert run.text == str(run) == run.reply.text
    roles = [message["role"] for message in run.messages]
    assert roles[0] == roles[-1] == "assistant"
    assert "tool" in roles


def test_rounds_are_limited(demo: Llama) -> None:
    calls = []

    def note(text: str) -> str:
        calls.append(text)
        return "noted"

    # A format whose every reply begins with a call: the model cannot stop.
    always = Tool("note", "", {"type": "object", "properties": {"text": {"enum": ["a"]}}, "required": ["text"]}, note)

    def stubborn(spec: ChatSpec) -> Any:
        given: dict[str, Any] = {**spec.options, "tool_choice": "required"}
        return demo.stream_chat(spec.messages, **given)

    options: dict[str, Any] = {"max_tokens": 200, "seed": 1, "parallel_tool_calls": False}
    loop = ToolLoop(stubborn, ToolsSpec(ASK, {"tools": [always], "max_rounds": 2, **options}))  # type: ignore[typeddict-item]
    with pytest.raises(ToolLimitError, match="after 2 rounds") as caught:
        loop.run()
    assert calls == ["a", "a"]
    assert [m["role"] for m in caught.value.messages] == ["assistant", "tool"] * 2 + ["assistant"]


def test_what_a_tool_raises(demo: Llama) -> None:
    def broken(city: Word) -> str:
        """Fails."""
        raise OSError("no connection")

    options: dict[str, Any] = {"tool_choice": "required", "max_tokens": 200, "seed": 1, "parallel_tool_calls": False}
    with pytest.raises(OSError, match="no connection"):
        demo.run_tools(ASK, tools=[broken], **options)
    events = list(demo.stream_tools(ASK, tools=[broken], on_error="report", **options))
    results = [event for event in events if isinstance(event, ToolResult)]
    assert results[0].content == "Error: OSError: no connection"
    assert isinstance(results[0].error, OSError)
    for bad, message in (
        ({"tools": [DEFINITION]}, "only a definition"),
        ({"tools": []}, "no tools to run"),
        ({"tools": [weather], "max_rounds": 0}, "max_rounds"),
        ({"tools": [weather], "on_error": "hide"}, "on_error"),
    ):
        with pytest.raises(ValueError, match=message):
            demo.run_tools(ASK, **bad)


def test_a_session_with_tools(demo: Llama) -> None:
    session = demo.session(tools=[weather], max_tokens=200, seed=1, parallel_tool_calls=False)
    run = session.run_tools("Oslo?", tool_choice="required")
    assert [m["role"] for m in session.messages] == ["user", *(m["role"] for m in run.messages)]
    assert session.n_tokens > 0
    n = len(session)
    with pytest.raises(MessageError):
        session.run_tools(3)  # type: ignore[arg-type]
    assert len(session) == n
    session.rewind()
    assert len(session) == 0


# -- structure


class Pet(BaseModel):
    name: Word
    kind: Literal["cat", "dog"]


def test_an_answer_that_is_an_object(demo: Llama) -> None:
    reply = demo.chat("A pet?", schema=Pet, max_tokens=200, seed=2)
    assert isinstance(reply.parsed, Pet)
    assert Pet.model_validate_json(reply.text) == reply.parsed
    partials = [chunk.partial for chunk in demo.stream_chat("A pet?", schema=Pet, max_tokens=200, seed=2)]
    assert partials[-1] == reply.parsed.model_dump()
    grown = [partial for partial in partials if partial]
    assert len(grown) > 3
    assert all(set(partial) <= {"name", "kind"} for partial in grown)
    with pytest.raises(IncompleteOutput) as caught:
        demo.chat("A pet?", schema=Pet, max_tokens=4, seed=2)
    assert caught.value.completion.finish_reason is FinishReason.LENGTH


def test_an_answer_or_a_call(demo: Llama) -> None:
    for choice in ("auto", "required", "none"):
        reply = demo.chat(
            ASK, schema=Pet, tools=[DEFINITION], tool_choice=choice, max_tokens=300, seed=4, reply_format="hermes"
        )
        if reply.tool_calls:
            assert choice != "none"
            assert reply.parsed is None
        else:
            assert choice != "required"
            assert isinstance(reply.parsed, Pet)


def test_a_prefix_is_part_of_what_is_parsed(demo: Llama) -> None:
    reply = demo.chat("A pet?", schema=Pet, prefix='{"name": "Tom", "kind":', max_tokens=60, seed=1)
    assert reply.parsed.name == "Tom"
    assert not reply.text.startswith("{")
    with pytest.raises(PromptError, match="cannot begin with that prefix"):
        demo.chat("A pet?", schema=Pet, prefix="Sure: ")


def test_options_that_a_reply_cannot_have(demo: Llama) -> None:
    for option in ("echo", "heal"):
        with pytest.raises(ValueError, match="use prefix= for the beginning of a reply"):
            demo.chat("A pet?", **{option: True})  # type: ignore[arg-type]
    for option in ("n", "suffix", "sing"):
        with pytest.raises((TypeError, ValueError)):
            demo.chat("A pet?", **{option: 2})  # type: ignore[arg-type]


# -- reasoning


def test_reasoning_that_the_prompt_opens(demo: Llama) -> None:
    options: dict[str, Any] = {"chat_template": THINKING, "seed": 1, "max_tokens": 60}
    reply = demo.chat("Why?", schema=Regex("yes|no"), reasoning_budget=6, **options)
    assert reply.parsed in ("yes", "no")
    assert reply.text == reply.parsed
    assert reply.reasoning
    assert "</think>" in reply.raw
    assert reply.message["reasoning_content"] == reply.reasoning
    thought = demo.tokenize(reply.raw.partition("</think>")[0], add_special=False)
    assert len(thought) <= 7
    chunks = list(demo.stream_chat("Why?", reasoning_budget=6, **options))
    assert "".join(chunk.reasoning for chunk in chunks) == chunks[-1].reply.reasoning  # type: ignore[union-attr]
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].reply.text  # type: ignore[union-attr]
    none = demo.chat("Why?", reasoning_budget=0, **options)
    assert none.reasoning == ""
    assert none.raw.startswith("</think>")


# -- tools that nobody here wrote


def test_every_set_of_the_berkeley_tools_can_be_held_to(assets: Path) -> None:
    sets = tool_sets(assets)
    assert len(sets) == 1448
    for tools in sets:
        for tool in tools:
            json_expression(tool_form(tool.parameters))


@pytest.mark.conformance
def test_calls_of_the_berkeley_tools_are_valid(demo: Llama, assets: Path) -> None:
    n_calls = n_cut = 0
    options: dict[str, Any] = {
        # The model would not understand what the tools are for anyway.
        "chat_template": "{{ messages[0].content }} {{ tools | length }} tools", "reply_format": "hermes",
        "tool_choice": "required", "max_tokens": 300, "temperature": 1.2,
    }  # fmt: skip
    for seed, specs in enumerate(tool_sets(assets)[::36]):
        tools = [Tool(spec.name, "", spec.parameters) for spec in specs][:8]
        schemas = {tool.name: tool.parameters for tool in tools}
        try:
            reply = demo.chat(ASK, tools=tools, seed=seed, **options)
        except IncompleteOutput:
            n_cut += 1  # a text without bounds, which this model does not end
            continue
        for call in reply.tool_calls:
            jsonschema.validate(dict(call.arguments), schemas[call.name])
            n_calls += 1
    assert n_calls > 10, n_cut
