"""Bodies made by chance: never a failure of the server, and a good request works after each hundred of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/apply-template"),
    *("/completion", "/completion", "/infill", "/embedding", "/rerank", "/slots/0?action=erase", "/lora-adapters"),
    *("/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v1/responses/input_tokens"),
)
GOOD: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "prompt": "Hi",
    "input": "Hi",
    "content": "Hi",
    "tokens": [5],
    "query": "Hi",
    "documents": ["Hi"],
    "input_prefix": "Hi",
    "input_suffix": "Hi",
    "max_tokens": 3,
}


def names() -> list[str]:
    from llama_cffi.server.anthropic.request import MESSAGE_FIELDS
    from llama_cffi.server.fields import IGNORED, REFUSED
    from llama_cffi.server.llama_server.embedding import NATIVE_EMBEDDING_FIELDS
    from llama_cffi.server.llama_server.infill import INFILL_NAMES
    from llama_cffi.server.llama_server.request import NATIVE_FIELDS
    from llama_cffi.server.llama_server.rerank import RERANK_FIELDS
    from llama_cffi.server.openai.chat_request import CHAT_FIELDS
    from llama_cffi.server.openai.completions import TEXT_FIELDS
    from llama_cffi.server.openai.embeddings import EMBEDDING_FIELDS
    from llama_cffi.server.openai.responses_request import RESPONSE_FIELDS

    native = (*NATIVE_FIELDS, *NATIVE_EMBEDDING_FIELDS, *RERANK_FIELDS)
    openai = (*CHAT_FIELDS, *TEXT_FIELDS, *EMBEDDING_FIELDS, *RESPONSE_FIELDS)
    fields = {name for one in (*openai, *native, *MESSAGE_FIELDS) for name in one.names}
    others = {
        "messages",
        "prompt",
        "input",
        "content",
        "tokens",
        "tools",
        "tool_choice",
        "stream_options",
        "modalities",
        "system",
        "previous_response_id",
        "background",
        "documents",
        "texts",
        "filename",
    }
    return sorted({*fields, *IGNORED, *REFUSED, *others, *INFILL_NAMES, "continue_final_message", "with_tokens"})


def value(chance: random.Random, depth: int = 0) -> Any:
    """A value of JSON."""
    kinds = [
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        0.5,
        -0.5,
        1e30,
        2**31,
        2**63,
        -(2**40),
        "",
        "a",
        "auto",
        "none",
        "\0",
        "é",
    ]
    kinds += ["required", "user", "assistant", "text", "json_object", 'root ::= "a"', "[a-z]{2}", "float", "base64"]
    if depth < 3 and chance.random() < 0.5:
        if chance.random() < 0.5:
            return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        keys = [
            *("type", "role", "content", "text", "function", "name", "parameters", "schema", "json_schema", "1", "a"),
            *("id", "scale", "prompt_string", "multimodal_data", "filename", "bias", "token"),
        ]
        return {chance.choice(keys): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice(kinds)


_TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RICH: dict[str, Any] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "one"},
        ],
        "tools": [{"type": "function", "function": _TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["a", 1]}}},
        "max_tokens": 4,
    },
    "/v1/messages": {
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "tool_use", "id": "toolu_a", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_a", "is_error": True,
                 "content": [{"type": "text", "text": "one"}]}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": _TOOL["parameters"]}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"enum": ["a", 1]}}},
        "stop_sequences": ["a"], "metadata": {"user_id": "u"}, "max_tokens": 4,
    },
    "/v1/responses": {
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So"}]},
            {"type": "function_call", "call_id": "call_a", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_a", "output": "one"},
        ],
        "tools": [{"type": "function", **_TOOL}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"enum": ["a", 1]}}},
        "reasoning": {"effort": "low", "summary": "auto"}, "include": ["message.output_text.logprobs"],
        "metadata": {"a": "b"}, "max_output_tokens": 4,
    },
}  # fmt: skip
RICH["/v1/messages/count_tokens"], RICH["/v1/responses/input_tokens"] = RICH["/v1/messages"], RICH["/v1/responses"]
"""Bodies with everything in them."""


def mutated(chance: random.Random, body: Any) -> Any:
    """A body in which one thing somewhere is another one, is missing, or is there twice."""
    if not isinstance(body, (dict, list)) or not body or chance.random() < 0.15:
        return value(chance)
    keys = list(body) if isinstance(body, dict) else list(range(len(body)))
    key = chance.choice(keys)
    if chance.random() < 0.1:
        if isinstance(body, list):
            return [*body, body[key]] if chance.random() < 0.5 else body[:key] + body[key + 1 :]
        return {name: one for name, one in body.items() if name != key}
    if isinstance(body, list):
        return [*body[:key], mutated(chance, body[key]), *body[key + 1 :]]
    return {**body, key: mutated(chance, body[key])}


def body_of(chance: random.Random, fields: list[str]) -> tuple[str, Any]:
    """A path and a body for it."""
    if chance.random() < 0.4:
        path = chance.choice(sorted(RICH))
        body = {**RICH[path], "stream": chance.random() < 0.3}
        for _ in range(chance.randrange(1, 4)):
            body = mutated(chance, body)
        return path, body
    path, body = chance.choice(PATHS), dict(GOOD)
    if path.startswith("/v1/responses"):
        del body["prompt"]  # a stored one there
    for _ in range(chance.randrange(1, 4)):
        body[chance.choice(fields)] = value(chance)
    return path, body


def search(ask: Callable[..., Any], server: Running, seed: int, n: int) -> None:
    chance, fields = random.Random(seed), names()
    for i in range(n):
        path, body = body_of(chance, fields)
        found = ask(path, {} if body is None else body)
        assert found.status_code in (200, 400, 404, 501), (seed, i, path, body, found.text)
        if found.status_code >= 400:
            assert found.json()["error"]["message"]
        if i % 100 == 99:
            server.until_idle()
            assert ask("/v1/completions", {"prompt": "Once", "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("path", sorted(RICH))
def test_the_bodies_that_are_changed_are_good(ask: Callable[..., Any], path: str) -> None:
    found = ask(path, RICH[path])
    assert found.status_code == 200, found.text


def test_some_bodies(ask: Callable[..., Any], server: Running) -> None:
    search(ask, server, 0, 100)


@pytest.mark.fuzz
def test_many_bodies(ask: Callable[..., Any], server: Running) -> None:
    for seed in range(1, 21):
        print("seed", seed)
        search(ask, server, seed, 100)
