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
    from llama_cffi.server.fields import IGNORED, REFUSED
    from llama_cffi.server.llama_server.embedding import NATIVE_EMBEDDING_FIELDS
    from llama_cffi.server.llama_server.infill import INFILL_NAMES
    from llama_cffi.server.llama_server.request import NATIVE_FIELDS
    from llama_cffi.server.llama_server.rerank import RERANK_FIELDS
    from llama_cffi.server.openai.chat_request import CHAT_FIELDS
    from llama_cffi.server.openai.completions import TEXT_FIELDS
    from llama_cffi.server.openai.embeddings import EMBEDDING_FIELDS

    native = (*NATIVE_FIELDS, *NATIVE_EMBEDDING_FIELDS, *RERANK_FIELDS)
    fields = {name for one in (*CHAT_FIELDS, *TEXT_FIELDS, *EMBEDDING_FIELDS, *native) for name in one.names}
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


def search(ask: Callable[..., Any], server: Running, seed: int, n: int) -> None:
    chance, fields = random.Random(seed), names()
    for i in range(n):
        body = dict(GOOD)
        for _ in range(chance.randrange(1, 4)):
            body[chance.choice(fields)] = value(chance)
        path = chance.choice(PATHS)
        found = ask(path, body)
        assert found.status_code in (200, 400, 404, 501), (seed, i, path, body, found.text)
        if found.status_code >= 400:
            assert found.json()["error"]["message"]
        if i % 100 == 99:
            server.until_idle()
            assert ask("/v1/completions", {"prompt": "Once", "max_tokens": 2}).status_code == 200


def test_some_bodies(ask: Callable[..., Any], server: Running) -> None:
    search(ask, server, 0, 100)


@pytest.mark.fuzz
def test_many_bodies(ask: Callable[..., Any], server: Running) -> None:
    for seed in range(1, 21):
        print("seed", seed)
        search(ask, server, seed, 100)
