"""What requests get that do not say otherwise: fields, a template, a pooling."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

USER = [{"role": "user", "content": "Hi"}]
PROMPT = "Once upon a"


def ask(server: Running, settings: dict[str, Any], path: str, body: Any) -> Any:
    """What a server with these settings answers."""
    from llama_cffi.server.app import make_app
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    async def open_model() -> Any:
        return server.llm

    async def main() -> Any:
        service = Service(open_model, Settings(**settings), "demo")
        await service.load()
        transport = httpx.ASGITransport(app=make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            return await (client.get(path) if body is None else client.post(path, json=body))

    return asyncio.run(main())


def text(server: Running, defaults: dict[str, Any], **fields: Any) -> str:
    body = {"prompt": PROMPT, "max_tokens": 6, "seed": 1, **fields}
    found = ask(server, {"defaults": defaults}, "/v1/completions", body)
    assert found.status_code == 200, found.text
    return str(found.json()["choices"][0]["text"])


def test_fields_have_defaults_and_requests_win(server: Running) -> None:
    greedy = server.llm.llama.generate(PROMPT, max_tokens=6, temperature=0).text
    assert text(server, {"temperature": 0}) == greedy
    hot = text(server, {}, temperature=5)
    assert text(server, {"temperature": 0}, temperature=5) == hot != greedy
    assert text(server, {"temperature": 0, "stop": ["time"]}) == " "
    assert text(server, {"temperature": 0, "stop": ["time"]}, stop=["a"], max_tokens=1) == " time"
    # Of several names of a field each is known.
    assert text(server, {"temperature": 0, "n_predict": 1}, max_tokens=None) == " time"


def test_a_request_with_a_constraint_gets_no_other_one(server: Running) -> None:
    defaults = {"grammar": 'root ::= "x"'}
    assert text(server, defaults) == "x"
    assert text(server, defaults, grammar='root ::= "y"') == "y"
    assert text(server, defaults, guided_choice=["z"]) == "z"
    assert text(server, {"json_schema": {"const": 7}}) == "7"
    assert text(server, {"json_schema": {"const": 7}}, grammar='root ::= "y"') == "y"


def test_variables_of_the_template_are_added_to(server: Running) -> None:
    template = "{{ a }}{{ b }}{{ messages[0].content }}"
    settings = {"defaults": {"chat_template_kwargs": {"a": "1", "b": "2"}}, "chat_template": template}
    body = {"messages": USER, "chat_template_kwargs": {"b": "3"}}
    assert ask(server, settings, "/apply-template", body).json()["prompt"] == "13Hi"
    found = ask(server, settings, "/v1/chat/completions", {**body, "max_tokens": 1}).json()
    assert found["usage"]["prompt_tokens"] == len(server.llm.tokenize("13Hi"))
    plain = {"defaults": {}, "chat_template": "{{ messages[0].content }}"}
    n_tokens = len(server.llm.tokenize("Hi"))
    for path, fields in (
        ("/v1/messages/count_tokens", {"messages": USER}),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
        ("/v1/chat/completions/input_tokens", {"messages": USER}),
    ):
        assert ask(server, plain, path, fields).json()["input_tokens"] == n_tokens
    for path, asked in (
        ("/v1/messages", {"messages": USER, "max_tokens": 1}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 1}),
    ):
        given: dict[str, Any] = dict(asked)
        found = ask(server, plain, path, given).json()
        assert found["usage"]["input_tokens"] + found["usage"].get("cache_read_input_tokens", 0) == n_tokens
    props = ask(server, settings, "/props", None).json()
    assert props["chat_template"] == template


def test_pooling(server: Running) -> None:
    rows = {}
    for pooling in ("mean", "last"):
        found = ask(server, {"pooling": pooling}, "/v1/embeddings", {"input": "a red ball"}).json()
        rows[pooling] = np.array(found["data"][0]["embedding"])
        expected = server.llm.llama.embed(["a red ball"], pooling=pooling).array[0]
        assert np.abs(rows[pooling] - expected).max() < 1e-5
    assert np.abs(rows["mean"] - rows["last"]).max() > 1e-3


def test_what_no_request_could_have() -> None:
    from llama_cffi.server.default_check import check_defaults

    assert check_defaults({"temperature": 0, "samplers": "kpt", "embd_normalize": -1}, 512, 4, 16) is None
    for name, value in (("temperature", -1), ("samplers", ["x"]), ("embd_normalize", 3), ("reasoning_budget", "a")):
        found = check_defaults({"top_k": 1, name: value}, 512, 4, 16)
        assert found is not None
        assert found[0] == name
