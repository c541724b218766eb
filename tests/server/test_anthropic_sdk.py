"""Anthropic's own client against the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from llama_cffi.reply.completion import FinishReason
from tests.support.canned import N_CACHED, N_PROMPT, N_THOUGHT, Canned, called, ended, everything, said

anthropic = pytest.importorskip("anthropic")

if TYPE_CHECKING:
    from tests.server.conftest import Running

Ask = Callable[..., Any]
PATH = "/v1/messages"
ASK: Any = [{"role": "user", "content": "Tell me a story"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}


class Pet(BaseModel):
    age: int = Field(ge=0, le=9)


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def events(response: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose order is checked: one block at a time, numbered from 0."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for part in filter(None, response.text.split("\n\n")):
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    found = [one for one in found if one["type"] != "ping"]
    kinds = [one["type"] for one in found]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    index, is_open = -1, False
    for one in found[1:-2]:
        if one["type"] == "content_block_start":
            assert not is_open
            index, is_open = index + 1, True
        assert is_open
        assert one["index"] == index
        if one["type"] == "content_block_stop":
            is_open = False
        else:
            assert one["type"] in ("content_block_start", "content_block_delta")
    assert not is_open
    return found


def without_ids(message: Any) -> Any:
    """A message as a dict, without what differs between two answers."""
    found = message.to_dict() if hasattr(message, "to_dict") else message
    found = {key: one for key, one in found.items() if key not in ("id", "usage", "stop_details")}
    content = [{key: one for key, one in block.items() if key != "id"} for block in found["content"]]
    return {**found, "content": content}


def test_a_stream_says_what_the_whole_answer_says(client: Any, server: Running) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 24}
    more: dict[str, Any] = {"extra_body": {"seed": 3}}
    whole = client.messages.create(**asked, **more)
    (block,) = whole.content
    assert (block.type, whole.stop_reason, whole.stop_sequence) == ("text", "max_tokens", None)
    assert whole.id.startswith("msg_")
    assert whole.usage.output_tokens == 24
    reply = server.llm.llama.chat(ASK, max_tokens=24, seed=3)
    assert block.text == reply.text
    assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens == reply.usage.prompt_tokens
    with client.messages.stream(**asked, **more) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text
    assert without_ids(final) == without_ids(whole)
    assert final.usage.output_tokens == whole.usage.output_tokens
    # The second time the prompt is in memory, and a part of it is computed again.
    assert 0 < final.usage.cache_read_input_tokens < reply.usage.prompt_tokens
    assert final.usage.input_tokens == reply.usage.prompt_tokens - final.usage.cache_read_input_tokens


def test_the_order_of_events(ask: Ask) -> None:
    found = events(ask(PATH, {"messages": ASK, "max_tokens": 5, "stream": True}))
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    assert start["usage"]["input_tokens"] > 0
    assert found[1]["content_block"] == {"type": "text", "text": ""}
    assert found[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 5


def test_why_it_ended(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "extra_body": {"temperature": 0}}
    found = client.messages.create(**asked, max_tokens=50, stop_sequences=["never", "time"])
    assert (found.content[0].text, found.stop_reason, found.stop_sequence) == ("Once upon a ", "stop_sequence", "time")
    warm = client.messages.create(**asked, max_tokens=0)
    assert (warm.content, warm.stop_reason, warm.usage.output_tokens) == ([], "max_tokens", 0)


@pytest.mark.parametrize(
    ("reason", "more", "expected"),
    [
        (FinishReason.STOP, {}, "end_turn"),
        (FinishReason.STOP, {"stop_sequence": 5}, "end_turn"),
        (FinishReason.STOP, {"stop_sequence": "x"}, "stop_sequence"),
        (FinishReason.STOP, {"incomplete": True}, "max_tokens"),
        (FinishReason.LENGTH, {}, "max_tokens"),
        (FinishReason.LENGTH, {"context_full": True}, "model_context_window_exceeded"),
        (FinishReason.DEADLINE, {}, "max_tokens"),
        (FinishReason.TOOL_CALLS, {"stop_sequence": "x"}, "tool_use"),
    ],
)
def test_words_for_the_end(
    ask: Ask, server: Running, monkeypatch: pytest.MonkeyPatch, reason: FinishReason, more: Any, expected: str
) -> None:
    reply = ended([said("Hm")], reason, **more)
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned(reply))
    whole = ask(PATH, {"messages": ASK}).json()
    assert (whole["stop_reason"], whole["stop_sequence"]) == (expected, "x" if expected == "stop_sequence" else None)
    last = events(ask(PATH, {"messages": ASK, "stream": True}))[-2]
    assert last["delta"] == {"stop_reason": expected, "stop_sequence": whole["stop_sequence"]}


def test_a_reply_goes_on_from_its_beginning(client: Any) -> None:
    turns = [*ASK, {"role": "assistant", "content": "Once"}, {"role": "assistant", "content": " upon"}]
    found = client.messages.create(model="demo", messages=turns, max_tokens=3, extra_body={"temperature": 0})
    assert found.content[0].text == " a time,"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_calls(client: Any, choice: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 200, "extra_body": {"seed": 5}}
    asked |= {"tool_choice": {**choice, "disable_parallel_tool_use": True}}
    asked |= {"tools": [WEATHER] if choice["type"] == "any" else [WEATHER, CLOCK]}
    whole = client.messages.create(**asked)
    assert whole.stop_reason == "tool_use"
    (call,) = [one for one in whole.content if one.type == "tool_use"]
    assert call.name == "weather"
    assert call.id.startswith("toolu_")
    assert call.input["city"] in ("Rome", "Oslo")
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    assert without_ids(final) == without_ids(whole)
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}]
    turns = [*ASK, {"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
    again = client.messages.create(**{**asked, "messages": turns, "tool_choice": {"type": "none"}, "max_tokens": 3})
    assert again.stop_reason == "max_tokens"
    assert all(one.type == "text" for one in again.content)


def test_calls_that_were_cut(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "tools": [WEATHER], "tool_choice": {"type": "any"}}
    found = [client.messages.create(**asked, max_tokens=n, extra_body={"seed": 5}) for n in (4, 24)]
    assert {one.stop_reason for one in found} == {"max_tokens"}
    calls = [block for one in found for block in one.content if block.type == "tool_use"]
    assert calls
    assert all(isinstance(one.input, dict) for one in calls)


def test_structured_output(client: Any) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}}}
    schema |= {"required": ["age"], "additionalProperties": False}
    output: Any = {"format": {"type": "json_schema", "schema": schema}}
    found = client.messages.create(model="demo", messages=ASK, max_tokens=100, output_config=output)
    assert 0 <= json.loads(found.content[0].text)["age"] <= 9
    assert found.stop_reason == "end_turn"
    parsed = client.messages.parse(model="demo", messages=ASK, max_tokens=100, output_format=Pet)
    assert isinstance(parsed.parsed_output, Pet)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "Be kind."},
        {"system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind.", "cache_control": {"type": "x"}}]},
        {"tools": [WEATHER, CLOCK]},
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"messages": [*ASK, {"role": "assistant", "content": "Once"}]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ],
)
def test_tokens_are_counted_as_they_are_used(client: Any, more: Any) -> None:
    asked = {"model": "demo", "messages": ASK, **more}
    usage = client.messages.create(**asked, max_tokens=1).usage
    counted = client.messages.count_tokens(**asked).input_tokens
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_thinking_and_several_calls(client: Any, server: Running, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned(everything()))
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 99}
    whole = client.messages.create(**asked)
    assert without_ids(whole)["content"] == [
        {"type": "thinking", "thinking": "Let me think.", "signature": ""},
        {"type": "text", "text": "I will look."},
        {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "name": "clock", "input": {}},
    ]
    assert [one.id for one in whole.content if one.type == "tool_use"] == ["toolu_id0", "toolu_id1"]
    usage = whole.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (N_PROMPT - N_CACHED, N_CACHED)
    assert usage.output_tokens_details.thinking_tokens == N_THOUGHT
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    assert without_ids(final) == without_ids(whole)
    assert final.usage.input_tokens == usage.input_tokens
    found = events(ask(PATH, {**asked, "stream": True}))
    deltas = [one["delta"]["type"] for one in found if one["type"] == "content_block_delta"]
    assert deltas[:4] == ["thinking_delta", "thinking_delta", "signature_delta", "text_delta"]
    hidden = client.messages.create(**asked, thinking={"type": "adaptive", "display": "omitted"})
    assert without_ids(hidden)["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert without_ids(hidden)["content"][1:] == without_ids(whole)["content"][1:]
    with client.messages.stream(**asked, thinking={"type": "adaptive", "display": "omitted"}) as stream:
        assert without_ids(stream.get_final_message()) == without_ids(hidden)
    cut = ended([said("Hm"), called(0, "weather", '{"city": "Ro')], FinishReason.LENGTH, incomplete=True)
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned(cut))
    found = ask(PATH, asked).json()
    assert found["content"][1]["input"] == {"city": "Ro"}
    assert found["stop_reason"] == "max_tokens"


def test_what_the_model_is_given(server: Running, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request as agents make it."""
    given: list[Any] = []

    def stream_chat(messages: Any, **options: Any) -> Canned:
        given.append((messages, options))
        return Canned(ended([said("ok")], FinishReason.STOP))

    monkeypatch.setattr(server.llm, "stream_chat", stream_chat)
    mark = {"cache_control": {"type": "ephemeral"}}
    stamp = "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch={};"
    for one in ("a5145", "0b9f2"):
        body = {
            "model": "claude-haiku",
            "system": [
                {"type": "text", "text": stamp.format(one)},
                {"type": "text", "text": "You help. cch=a5145;", **mark},
            ],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two", **mark}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_abcdefghi", "name": "weather", "input": {"city": "Rome"}, **mark},
                    {"type": "tool_use", "id": "other", "name": "clock", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "text", "text": "Well?"},
                    {"type": "tool_result", "tool_use_id": "toolu_abcdefghi", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "other", "is_error": True, **mark, "content": [
                        {"type": "text", "text": "no"}, {"type": "text", "text": "clock"}]},
                ]},
                {"role": "user", "content": "Go on."},
            ],
            "tools": [{**WEATHER, **mark}, {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "metadata": {"user_id": "u"}, "service_tier": "auto", "max_tokens": 32000, "temperature": 1, "stream": True,
        }  # fmt: skip
        found = ask(f"{PATH}?beta=true", body, anthropic_version="2023-06-01", anthropic_beta="a,b")
        assert found.status_code == 200, found.text
        assert set(found.headers["x-llama-cffi-ignored"].split(",")) == {
            *("metadata", "service_tier", "tools.web_search_20250305"),
        }
    assert given[0] == given[1]
    messages, options = given[0]
    system = f"{stamp.format('fffff')}\nYou help. cch=a5145;"
    calls = [
        {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}},
        {"id": "other", "type": "function", "function": {"name": "clock", "arguments": {}}},
    ]
    assert messages == [
        {"role": "system", "content": system},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
        {"role": "tool", "tool_call_id": "other", "content": "Error: no\nclock"},
        {"role": "user", "content": "Well?\nGo on."},
    ]
    (tool,) = options["tools"]
    assert tool["function"]["parameters"] == WEATHER["input_schema"]
    expected = {"tool_choice": "auto", "parallel_tool_calls": False, "reasoning_budget": 2048, "max_tokens": 32000}
    expected |= {"chat_template_kwargs": {"enable_thinking": True}, "temperature": 1.0}
    assert {key: options[key] for key in expected} == expected


# -- errors


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "not image"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "b", "input": "{}"}]}]},
         "messages[0].content[0].input"),
        ({"messages": [*ASK, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]}, "cannot have calls"),
        ({"system": 3}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": ["a"], "stop": "b"}, "stop"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "name of a tool"),
        ({"tools": [{"name": "a", "input_schema": 3}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [CLOCK], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [CLOCK], "tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "display": "half"}}, "thinking.display"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}, "reasoning_budget": 3}, "thinking"),
        ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"n": 2}, "n"),
        ({"chat_template": "x"}, "chat_template"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(ask: Ask, fields: Any, place: str) -> None:
    for path in (PATH, f"{PATH}/count_tokens"):
        found = ask(path, {"messages": ASK, **fields})
        if found.status_code == 200:
            # What is wrong with the choice among tools, and with samplers, is found when a reply is prepared.
            assert path != PATH
            continue
        assert found.status_code == 400
        body = found.json()
        assert set(body) == {"type", "error", "request_id"}
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
        assert place in body["error"]["message"]
        assert body["request_id"] == found.headers["request-id"] == found.headers["x-request-id"]


def test_errors(client: Any, ask: Ask) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="demo", messages=[{"role": "user", "content": "a " * 3000}], max_tokens=5)
    assert "context" in caught.value.message
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="demo", messages=ASK, max_tokens=5, stream=True, extra_body={"top_p": 2})
    lost = ask(f"{PATH}/batches")
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "not_found_error")
    assert ask(PATH).json()["error"]["type"] == "invalid_request_error"


def test_an_error_in_a_stream(client: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.llm, "stream_chat", lambda *_, **__: Canned([said("Once"), RuntimeError("/secret")]))
    with pytest.raises(anthropic.APIError) as caught:
        list(client.messages.create(model="demo", messages=ASK, max_tokens=5, stream=True))
    assert caught.value.body["error"]["type"] == "api_error"
    assert "secret" not in str(caught.value.body)


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert (model.type, model.id, model.display_name) == ("model", "demo", "demo")
    assert model.created_at.tzinfo is not None
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("other")
