"""One question in every dialect, streamed and whole: the same text, for the same tokens, as Llama's own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest.importorskip("httpx")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

Ask = Callable[..., Any]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"pet": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "maximum": 99}},
}
SCHEMA |= {"required": ["pet", "age"], "additionalProperties": False}
ASKED = ("Tell me a story", "Who is Tom?", "Hi", "What is red?")
SYSTEMS = ("", "Be kind.", "You write\nshort stories.")


def of_chat(body: Any, streamed: list[Any] | None) -> tuple[str, int, int]:
    if streamed is not None:
        counts = streamed[-1]["usage"]
        text = "".join(one["choices"][0]["delta"].get("content") or "" for one in streamed if one["choices"])
    else:
        counts, text = body["usage"], body["choices"][0]["message"]["content"]
    return text, counts["prompt_tokens"], counts["completion_tokens"]


def of_message(body: Any, streamed: list[Any] | None) -> tuple[str, int, int]:
    if streamed is not None:
        counts = next(one["usage"] for one in streamed if one["type"] == "message_delta")
        text = "".join(one["delta"]["text"] for one in streamed if one["type"] == "content_block_delta")
    else:
        counts, text = body["usage"], "".join(one["text"] for one in body["content"])
    return text, counts["input_tokens"] + counts["cache_read_input_tokens"], counts["output_tokens"]


def of_response(body: Any, streamed: list[Any] | None) -> tuple[str, int, int]:
    if streamed is not None:
        body = streamed[-1]["response"]
        text = "".join(one["delta"] for one in streamed if one["type"] == "response.output_text.delta")
    else:
        text = "".join(part["text"] for item in body["output"] for part in item["content"])
    return text, body["usage"]["input_tokens"], body["usage"]["output_tokens"]


def search(server: Running, ask: Ask, seeds: range) -> None:
    for seed in seeds:
        chance = random.Random(seed)
        content, system = chance.choice(ASKED), chance.choice(SYSTEMS)
        n, samplers = chance.randrange(1, 40), dict[str, Any](seed=seed, temperature=chance.choice((0, 0.5, 1, 2)))
        samplers |= {"top_k": chance.choice((0, 5, 40)), "top_p": chance.choice((0.9, 1))}
        stop = chance.choice(([], ["the", "was"], ["\n"]))
        schema = chance.choice((None, None, SCHEMA))
        turns = [{"role": "user", "content": content}]
        whole = [{"role": "system", "content": system}, *turns] if system else turns
        more: Any = {} if schema is None else {"schema": schema, "on_incomplete": "return"}
        reply = server.llm.llama.chat(whole, max_tokens=n, stop=stop, **samplers, **more)
        expected = reply.text, reply.usage.prompt_tokens, reply.usage.completion_tokens
        form = {"type": "json_schema", "name": "a", "schema": schema}
        chat = {"messages": whole, "max_tokens": n, "stop": stop, **({"json_schema": schema} if schema else {})}
        message = {"messages": turns, "system": system, "max_tokens": n, "stop_sequences": stop}
        message |= {"output_config": {"format": form}} if schema else {}
        response = {"input": turns, "instructions": system, "max_output_tokens": n, "stop": stop}
        response |= {"text": {"format": form}} if schema else {}
        for path, body, read in (
            ("/v1/chat/completions", chat, of_chat),
            ("/v1/messages", message, of_message),
            ("/v1/responses", response, of_response),
        ):
            found = ask(path, {**body, **samplers})
            assert read(found.json(), None) == expected, (seed, path, body, found.text)
            usage = {"stream_options": {"include_usage": True}} if path.startswith("/v1/chat") else {}
            found = ask(path, {**body, **samplers, "stream": True, **usage})
            lines = [line[6:] for line in found.text.split("\n") if line.startswith("data: {")]
            assert read(None, [json.loads(line) for line in lines]) == expected, (seed, path, body, found.text)


def test_some_questions(server: Running, ask: Ask) -> None:
    search(server, ask, range(4))


@pytest.mark.conformance
def test_many_questions(server: Running, ask: Ask) -> None:
    search(server, ask, range(100, 300))
