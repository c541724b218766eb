"""OpenAI's responses: its own client against the server, and its own schemas as judges of every answer and event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from llama_cffi.reply.completion import FinishReason
from tests.support.canned import N_CACHED, N_PROMPT, N_THOUGHT, Canned, called, ended, everything, said

openai = pytest.importorskip("openai")

if TYPE_CHECKING:
    from tests.server.conftest import Running

Ask = Callable[..., Any]
PATH = "/v1/responses"
ASK = "Tell me a story"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CLOCK: Any = {"type": "function", "name": "clock"}


class Pet(BaseModel):
    kind: str = Field(max_length=5)
    age: int = Field(ge=0, le=9)


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def judge(assets: Path) -> Any:
    from tests.support.openapi import openapi

    return openapi(assets)


@pytest.fixture
def both(ask: Ask, judge: Any) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the whole answer and the events of the stream, after both were judged and compared."""

    def send(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        body = {"input": ASK, "model": "demo", **body}
        found = ask(PATH, body)
        assert found.status_code == 200, found.text
        whole = found.json()
        judge.check("Response", whole)
        streamed = events(ask(PATH, {**body, "stream": True}))
        for one in streamed:
            judge.check_event(one)
        final = streamed[-1]["response"]
        assert streamed[-1]["type"] == f"response.{final['status']}"
        assert without_ids(final) == without_ids(whole)
        check_order(streamed)
        return whole, streamed

    return send


def events(response: Any) -> list[dict[str, Any]]:
    """The events of a stream; they are numbered from 0."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for part in filter(None, response.text.split("\n\n")):
        if part.startswith(":"):
            continue
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def check_order(streamed: list[dict[str, Any]]) -> None:
    """What the client's own accumulator relies on, and what the deltas come to."""
    assert [one["type"] for one in streamed[:2]] == ["response.created", "response.in_progress"]
    assert streamed[0]["response"]["output"] == []
    output: list[dict[str, Any]] = []
    text = ""
    is_open = False
    for one in streamed[2:-1]:
        kind = one["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert not is_open
            assert one["output_index"] == len(output)
            output.append(one["item"])
            text, is_open = "", True
            continue
        assert is_open
        assert one["output_index"] == len(output) - 1
        if kind == "output_item.done":
            assert one["item"]["id"] == output[-1]["id"]
            output[-1], is_open = one["item"], False
            continue
        assert one["item_id"] == output[-1]["id"]
        if kind.endswith(".delta"):
            assert one["delta"]
            text += one["delta"]
        elif kind.endswith(("_text.done", "arguments.done")):
            assert one.get("text", one.get("arguments")) == text
    assert not is_open
    assert streamed[-1]["response"]["output"] == output
    assert streamed[-1]["response"]["id"] == streamed[0]["response"]["id"]


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what differs between two answers."""
    found = {key: one for key, one in response.items() if key not in ("id", "created_at", "usage")}
    found["output"] = [{key: one for key, one in item.items() if "id" not in key} for item in found["output"]]
    counts = response["usage"]
    return {**found, "usage": {key: counts[key] for key in ("input_tokens", "output_tokens", "total_tokens")}}


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def test_a_stream_says_what_the_whole_answer_says(both: Any, server: Running) -> None:
    whole, streamed = both({"max_output_tokens": 24, "seed": 3})
    reply = server.llm.llama.chat([{"role": "user", "content": ASK}], max_tokens=24, seed=3)
    assert text_of(whole) == reply.text
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert whole["output"][0]["status"] == "incomplete"
    usage = whole["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (reply.usage.prompt_tokens, 24)
    assert usage["total_tokens"] == usage["input_tokens"] + 24
    assert streamed[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"] > 0


def test_the_client(client: Any, server: Running) -> None:
    asked: dict[str, Any] = {"model": "demo", "input": ASK, "temperature": 0, "extra_body": {"stop": "time"}}
    whole = client.responses.create(**asked, instructions="Be kind.", metadata={"a": "b"})
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASK}]
    assert whole.output_text == server.llm.llama.chat(messages, temperature=0, stop="time").text
    assert (whole.status, whole.instructions, whole.metadata) == ("completed", "Be kind.", {"a": "b"})
    with client.responses.stream(**asked, instructions="Be kind.") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert final.output_text == whole.output_text
    parsed = client.responses.parse(model="demo", input=ASK, text_format=Pet, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Pet)
    with client.responses.stream(model="demo", input=ASK, text_format=Pet) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_response().output_parsed, Pet)


def test_structured_output(both: Any) -> None:
    schema = {**Pet.model_json_schema(), "additionalProperties": False}
    form = {"type": "json_schema", "name": "pet", "schema": schema, "strict": True}
    whole, _ = both({"text": {"format": form}, "seed": 2, "max_output_tokens": 200})
    Pet.model_validate_json(text_of(whole))
    assert whole["text"]["format"]["name"] == "pet"
    whole, _ = both({"text": {"format": {"type": "json_object"}}, "max_output_tokens": 4, "seed": 1})
    assert whole["status"] == "incomplete"
    assert text_of(whole)


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
    ],
)
def test_calls(both: Any, choice: Any) -> None:
    tools = [WEATHER] if choice == "required" else [WEATHER, CLOCK]
    asked = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False, "max_output_tokens": 200, "seed": 5}
    whole, _ = both(asked)
    assert whole["status"] == "completed"
    (call,) = [one for one in whole["output"] if one["type"] == "function_call"]
    assert (call["name"], call["status"]) == ("weather", "completed")
    assert call["call_id"].startswith("call_")
    assert json.loads(call["arguments"])["city"] in ("Rome", "Oslo")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    items = [{"role": "user", "content": ASK}, *whole["output"], result]
    again, _ = both({**asked, "input": items, "tool_choice": "none", "max_output_tokens": 3})
    assert [one["type"] for one in again["output"]] == ["message"]


def test_a_call_that_was_cut(both: Any) -> None:
    for n in (4, 24):
        whole, _ = both({"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": n, "seed": 5})
        assert whole["status"] == "incomplete"
        assert {one["status"] for one in whole["output"] if one["type"] == "function_call"} <= {"incomplete"}


def test_logprobs(both: Any) -> None:
    asked = {"max_output_tokens": 6, "seed": 4, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole, streamed = both(asked)
    (part,) = whole["output"][0]["content"]
    assert "".join(one["token"] for one in part["logprobs"]) == part["text"]
    assert all(len(one["top_logprobs"]) == 2 for one in part["logprobs"])
    deltas = [entry for one in streamed if one["type"].endswith("text.delta") for entry in one["logprobs"]]
    assert [one["token"] for one in deltas] == [one["token"] for one in part["logprobs"]]


def test_without_a_text(both: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned(ended([], FinishReason.STOP)))
    whole, _ = both({})
    assert (whole["status"], text_of(whole), len(whole["output"])) == ("completed", "", 1)


def test_reasoning_and_several_calls(both: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned(everything()))
    whole, streamed = both({"reasoning": {"effort": "low"}})
    kinds = [one["type"] for one in whole["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert whole["output"][0]["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    assert [one["call_id"] for one in whole["output"][2:]] == ["call_id0", "call_id1"]
    assert {one["status"] for one in whole["output"]} == {"completed"}
    usage = whole["usage"]
    assert (usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]) == (N_PROMPT, N_CACHED)
    assert usage["output_tokens_details"]["reasoning_tokens"] == N_THOUGHT
    kinds = [one["type"].removeprefix("response.") for one in streamed]
    assert kinds[2:8] == [
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done"),
    ]
    whole, streamed = both({"reasoning": {"summary": "auto"}})
    assert whole["output"][0]["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert [one["type"].removeprefix("response.reasoning_") for one in streamed][3:8] == [
        *("summary_part.added", "summary_text.delta", "summary_text.delta", "summary_text.done", "summary_part.done"),
    ]
    cut = ended([said("Hm"), called(0, "weather", '{"city": "Ro')], FinishReason.LENGTH, incomplete=True)
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned(cut))
    whole, _ = both({})
    assert [one["status"] for one in whole["output"]] == ["completed", "incomplete"]
    assert whole["output"][1]["arguments"] == '{"city": "Ro'


def test_what_the_model_is_given(server: Running, ask: Ask, judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request as agents make it."""
    given: list[Any] = []

    def stream_chat(messages: Any, **options: Any) -> Canned:
        given.append((messages, options))
        return Canned(ended([said("ok")], FinishReason.STOP))

    monkeypatch.setattr(server.llm, "stream_chat", stream_chat)
    found = ask("/responses", {
        "model": "gpt-5-codex",
        "instructions": "You help.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Ask first."}]},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "xyz", "content": None},
            {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [
                {"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_abcdefghi", "name": "weather",
             "arguments": "{\"city\": \"Rome\"}", "status": "completed"},
            {"type": "function_call", "call_id": "other", "name": "clock", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_abcdefghi", "output": "sunny"},
            {"type": "function_call_output", "call_id": "other", "output": [{"type": "input_text", "text": "one"}]},
            {"role": "user", "content": "Well?"},
        ],
        "tools": [WEATHER, {"type": "local_shell"}, {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}],
        "tool_choice": "auto", "parallel_tool_calls": False, "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False, "stream": True, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
        "text": {"verbosity": "low"}, "service_tier": "auto", "previous_response_id": None,
    })  # fmt: skip
    assert found.status_code == 200, found.text
    for one in events(found):
        judge.check_event(one)
    assert set(found.headers["x-llama-cffi-ignored"].split(",")) == {
        *("prompt_cache_key", "service_tier", "tools.local_shell", "tools.web_search", "tools.custom"),
    }
    ((messages, options),) = given
    calls = [
        {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"id": "other", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]
    assert messages == [
        {"role": "system", "content": "You help.\n\nAsk first."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
        {"role": "tool", "tool_call_id": "other", "content": "one"},
        {"role": "user", "content": "Well?"},
    ]
    assert [one["function"]["name"] for one in options["tools"]] == ["weather"]
    assert options["chat_template_kwargs"] == {"reasoning_effort": "medium"}
    assert (options["tool_choice"], options["parallel_tool_calls"]) == ("auto", False)


def test_tokens_are_counted_as_they_are_used(client: Any, ask: Ask) -> None:
    asked: dict[str, Any] = {"input": ASK, "instructions": "Be kind.", "tools": [WEATHER]}
    used = client.responses.create(model="demo", **asked, max_output_tokens=1).usage.input_tokens
    counted = client.responses.input_tokens.count(model="demo", **asked)
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", used)
    chat: dict[str, Any] = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASK}]}
    chat["tools"] = [{"type": "function", "function": {key: WEATHER[key] for key in ("name", "strict", "parameters")}}]
    assert ask("/v1/chat/completions/input_tokens", chat).json()["input_tokens"] == used


# -- errors


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": None}, "invalid_type", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [3]}, "invalid_type", "input[0]"),
        ({"input": [{"type": "message", "role": "tool"}]}, "invalid_value", "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "unsupported_content",
         "input[0].content[0].type"),
        ({"input": [{"type": "function_call", "name": "a", "arguments": {}}]}, "invalid_type", "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "a"}]}, "invalid_type", "input[0].call_id"),
        ({"input": [{"type": "reasoning", "content": "a"}]}, "invalid_type", "input[0].content"),
        ({"input": [{"type": "reasoning", "encrypted_content": "a"}]}, "invalid_value", "input"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "unsupported_parameter", "input[0].type"),
        ({"input": [{"type": "computer_call"}]}, "invalid_value", "input[0].type"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"conversation": "c"}, "unsupported_parameter", "conversation"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"instructions": ["a"]}, "invalid_type", "instructions"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": 5, "max_tokens": 4}, "invalid_value", "max_output_tokens"),
        ({"text": {"format": {"type": "yaml"}}}, "invalid_value", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "invalid_schema", "text.format.schema"),
        ({"reasoning": {"effort": "huge"}}, "invalid_value", "reasoning.effort"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
        ({"tools": [{"type": "function"}]}, "invalid_tool", "tools[0]"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "invalid_type", "tool_choice.name"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "invalid_value", "tool_choice.type"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"input": "a " * 3000}, "context_length_exceeded", "input"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(ask: Ask, fields: Any, code: str, param: str | None) -> None:
    for stream in (False, True):
        found = ask(PATH, {"input": ASK, "stream": stream, **fields})
        error = found.json()["error"]
        assert (found.status_code, error["code"], error["param"]) == (400, code, param), error


def test_nothing_is_kept(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve("resp_1")
    assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.delete("resp_1")


def test_an_error_in_a_stream(ask: Ask, judge: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned([said("Once"), RuntimeError("/secret")]))
    found = events(ask(PATH, {"input": ASK, "stream": True}))
    judge.check_event(found[-1])
    failed = found[-1]["response"]
    assert (found[-1]["type"], failed["status"]) == ("response.failed", "failed")
    assert failed["error"]["code"] == "server_error"
    assert "secret" not in str(failed)
    assert text_of(failed) == "Once"
    assert failed["output"][0]["status"] == "incomplete"
