"""OpenAI's own client against the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import BaseModel, Field

openai = pytest.importorskip("openai")

if TYPE_CHECKING:
    from tests.server.conftest import Running

ASK: Any = [{"role": "user", "content": "Tell me a story"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}


class Pet(BaseModel):
    kind: str = Field(max_length=5)
    age: int = Field(ge=0, le=9)


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_stream_says_what_the_whole_answer_says(client: Any, server: Running) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 24, "seed": 3}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    choice = whole.choices[0]
    assert choice.message.content == "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == choice.finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert all(one.usage is None for one in chunks[:-1])
    assert {one.id for one in chunks} == {chunks[0].id}
    assert [one.choices[0].delta.role for one in chunks if one.choices].count("assistant") == 1
    reply = server.llm.llama.chat(ASK, max_tokens=24, seed=3)
    assert choice.message.content == reply.text
    assert whole.usage.prompt_tokens == reply.usage.prompt_tokens


def test_several_choices(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 12, "seed": 3, "n": 3, "temperature": 2}
    whole = client.chat.completions.create(**asked)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    assert whole.usage.completion_tokens == 36


def test_the_stream_helper(client: Any) -> None:
    with client.chat.completions.stream(model="demo", messages=ASK, stop="time", temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds[-1] == "content.done"
    assert final.choices[0].message.content == "Once upon a "


def test_structured_output(client: Any) -> None:
    found = client.chat.completions.parse(model="demo", messages=ASK, response_format=Pet, max_tokens=200)
    assert isinstance(found.choices[0].message.parsed, Pet)
    assert found.choices[0].finish_reason == "stop"
    found = client.chat.completions.create(
        model="demo", messages=ASK, response_format={"type": "json_object"}, max_tokens=4, seed=1
    )
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].message.content


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "weather"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]},
        },
    ],
)
def test_calls(client: Any, choice: Any) -> None:
    tools = [WEATHER] if choice == "required" else [WEATHER, CLOCK]
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "tools": tools, "tool_choice": choice, "seed": 5}
    asked |= {"parallel_tool_calls": False, "max_tokens": 200}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    (call,) = whole.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    deltas: list[Any] = []
    reasons = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        deltas += chunk.choices[0].delta.tool_calls or []
        reasons.append(chunk.choices[0].finish_reason)
    assert reasons[-1] == "tool_calls"
    assert [one.index for one in deltas] == [0] * len(deltas)
    assert [one.function.name for one in deltas if one.function.name] == ["weather"]
    assert sum(one.id is not None for one in deltas) == 1
    assert "".join(one.function.arguments or "" for one in deltas) == call.function.arguments


def test_no_calls_where_none_may_be(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "tools": [WEATHER], "max_tokens": 8}
    for choice in ("none", "auto"):
        assert client.chat.completions.create(**asked, tool_choice=choice).choices[0].message.tool_calls is None


def test_a_call_that_was_cut_is_given_as_far_as_it_came(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "tools": [WEATHER], "tool_choice": "required"}
    whole = client.chat.completions.create(**asked, max_tokens=200, seed=5).choices[0].message.tool_calls[0]
    cut = [client.chat.completions.create(**asked, max_tokens=n, seed=5).choices[0] for n in (4, 24)]
    assert {one.finish_reason for one in cut} == {"length"}
    begun = [one.message.tool_calls[0].function for one in cut if one.message.tool_calls]
    assert begun
    assert all(whole.function.arguments.startswith(one.arguments) for one in begun)


def test_embeddings_in_both_forms(client: Any, server: Running) -> None:
    texts = ["a cat", "the red ball", "a cat"]
    binary = client.embeddings.create(model="demo", input=texts)  # base64, which the client decodes
    plain = client.embeddings.create(model="demo", input=texts, encoding_format="float")
    rows = np.array([one.embedding for one in binary.data], dtype=np.float32)
    assert (rows == np.array([one.embedding for one in plain.data], dtype=np.float32)).all()
    assert np.abs(rows - server.llm.llama.embed(texts).array).max() < 1e-6
    assert [one.index for one in binary.data] == [0, 1, 2]
    assert binary.usage.prompt_tokens > 0
    short = client.embeddings.create(model="demo", input="a cat", dimensions=16).data[0].embedding
    assert len(short) == 16
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    tokens = server.llm.tokenize("a cat").tolist()
    by_ids = client.embeddings.create(model="demo", input=[tokens, tokens])
    assert np.abs(np.array(by_ids.data[1].embedding) - rows[0]).max() < 1e-6


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("demo", "model")
    assert client.models.retrieve("demo").id == client.models.retrieve("org/other").id == "demo"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such")
    assert caught.value.code == "model_not_found"


def test_completions(client: Any, server: Running) -> None:
    asked: dict[str, Any] = {"model": "demo", "prompt": "Once upon a", "max_tokens": 5, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == server.llm.llama.generate("Once upon a", max_tokens=5, temperature=0).text
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(one.choices[0].text for one in chunks) == whole.choices[0].text
    assert [one.choices[0].finish_reason for one in chunks] == [None] * (len(chunks) - 1) + ["length"]
    many = client.completions.create(**{**asked, "prompt": ["Once", "The cat"]}, n=2)
    assert [one.index for one in many.choices] == [0, 1, 2, 3]
    best = client.completions.create(**{**asked, "temperature": 1}, n=1, best_of=3, seed=2)
    assert len(best.choices) == 1


def test_errors(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=ASK, temperature=-1)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a " * 3000}])
    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length" in str(caught.value)
