"""What every client relies on: forms of errors, headers, fields, keys, origins; each endpoint without an SDK."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import pools

if TYPE_CHECKING:
    from tests.server.conftest import Running

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

Ask = Callable[..., Any]
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]


def error(response: Any) -> tuple[int, Any, Any]:
    """Status, code and param of an answer in the form of an error."""
    found = response.json()["error"]
    assert set(found) >= {"message", "type", "param", "code"}
    assert found["message"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code, found["code"], found["param"]


def events(response: Any) -> list[Any]:
    """The events of a stream; the last one is [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line and line != ":"]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def small(app_settings: Any = None, *, loaded: Running | None = None) -> Any:
    """An application without a socket; without a model unless one is given."""
    from llama_cffi.server.app import make_app
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    async def open_model() -> Any:
        assert loaded is not None
        return loaded.llm

    service = Service(open_model, app_settings or Settings(), "demo")
    if loaded is not None:
        asyncio.run(service.load())
    return make_app(service)


def call(app: Any, path: str, method: str = "GET", host: str = "localhost", **headers: str) -> Any:
    async def main() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=names)

    return asyncio.run(main())


# -- every field has its own error


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temperature": "warm"}, "invalid_type", "temperature"),
        ({"temperature": True}, "invalid_type", "temperature"),
        ({"top_p": 1.5}, "invalid_value", "top_p"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_completion_tokens": 1.5}, "invalid_type", "max_completion_tokens"),
        ({"n": 17}, "invalid_value", "n"),
        ({"stop": [1]}, "invalid_type", "stop[0]"),
        ({"stop": ["a"] * 65}, "invalid_value", "stop"),
        ({"logit_bias": {"1": "x"}}, "invalid_type", "logit_bias[0]"),
        ({"logit_bias": {"999999": 1}}, "invalid_token", "logit_bias"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"samplers": ["top_k", "magic"]}, "invalid_value", "samplers[1]"),
        ({"mirostat": 1, "dry_multiplier": 1}, "invalid_value", "mirostat"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"response_format": {"type": "yaml"}}, "invalid_value", "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}}, "invalid_schema",
         "response_format"),
        ({"json_schema": {"$ref": "http://x/y"}}, "invalid_schema", "json_schema"),
        ({"grammar": "root ::= ("}, "invalid_grammar", "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "invalid_value", "grammar"),
        ({"guided_choice": [1]}, "invalid_type", "guided_choice[0]"),
        ({"structured_outputs": {"regex": "a" * 600}}, "invalid_value", "structured_outputs.regex"),
        ({"chat_template": "{{ 1 }}"}, "unsupported_parameter", "chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "invalid_value", "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, "invalid_type", "chat_template_kwargs.enable_thinking"),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "invalid_tool", "tools[0]"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tool_choice": {"type": "x"}}, "invalid_value", "tool_choice.type"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"lora": [{"id": 0, "scale": 1}]}, "unsupported_parameter", "lora"),
        ({"min_tokens": 3}, "unsupported_parameter", "min_tokens"),
        ({"id_slot": 2}, "invalid_value", "id_slot"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "Hi"}, "invalid_type", "messages"),
        ({"messages": [{"content": "Hi"}]}, "invalid_type", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "invalid_type", "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "invalid_type",
         "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": []}]}]}, "invalid_type", "messages[0].content[0].type"),
        ({"messages": [*USER, {"role": "user", "content": [{"type": "image_url"}]}]},
         "unsupported_content", "messages[1].content[0].type"),
        ({"messages": USER, "continue_final_message": True}, "invalid_value", "continue_final_message"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_field(ask: Ask, fields: Any, code: str, param: str | None) -> None:
    assert error(ask(CHAT, {"messages": USER, **fields})) == (400, code, param)
    assert error(ask(CHAT, {"messages": USER, **fields, "stream": True, "stream_options": fields.get("stream_options")}
                     if param != "stream_options" else {"messages": USER, **fields})) == (400, code, param)  # fmt: skip


def test_what_clients_send_is_taken(ask: Ask) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}], "name": "Tom"},
        {"role": "assistant", "content": None, "refusal": None, "audio": None,
         "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": "done"}]},
    ]  # fmt: skip
    nulls = dict.fromkeys(
        ("temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format", "logit_bias", "n", "stream",
         "stream_options", "max_tokens", "functions", "chat_template", "lora")
    )  # fmt: skip
    found = ask(CHAT, {"messages": messages, **nulls, "max_completion_tokens": 3, "user": "me", "store": False,
                       "new_field": {"a": 1}, "logit_bias": {"5": -100}, "samplers": "kpmt", "repeat_last_n": -1,
                       "dry_penalty_last_n": -1, "top_k": -1, "response_format": {"type": "text"}})  # fmt: skip
    assert found.status_code == 200, found.text
    assert 1 <= found.json()["usage"]["completion_tokens"] <= 3
    assert set(found.headers["x-llama-cffi-ignored"].split(",")) == {"user", "store", "new_field"}


def test_without_content_type_with_a_slash_and_head(server: Running, ask: Ask) -> None:
    data = json.dumps({"messages": USER, "max_tokens": 2})
    with httpx.Client(base_url=server.url) as client:
        assert client.post(f"{CHAT}/", content=data).status_code == 200
        assert client.post("/chat/completions", content=data).status_code == 200
        head = client.head("/health")
        assert (head.status_code, head.content) == (200, b"")


def test_the_reply_goes_on_from_its_beginning(ask: Ask) -> None:
    messages = [*USER, {"role": "assistant", "content": "Once upon"}]
    asked = {"messages": messages, "max_tokens": 3, "temperature": 0}
    new = ask(CHAT, asked).json()["choices"][0]["message"]["content"]
    assert new == " a time,"
    assert ask(CHAT, {**asked, "echo": True}).json()["choices"][0]["message"]["content"] == f"Once upon{new}"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"guided_grammar": "no grammar"}, "guided_grammar"),
        (CHAT, {"grammar": "no grammar"}, "grammar"),
        (CHAT, {"guided_grammar": " "}, "guided_grammar"),
        (CHAT, {"dry_sequence_breakers": ["\0"]}, "dry_sequence_breakers"),
        (CHAT, {"guided_json": {"type": "thing"}}, "guided_json"),
        (CHAT, {"logit_bias": {"99999": 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": "a", "stop_token_ids": [99999]}, "stop_token_ids"),
        ("/v1/completions", {"prompt": [99999], "stop": ["a"]}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 5000}]}, "messages"),
        ("/v1/completions", {"prompt": "word " * 5000}, "prompt"),
        ("/completion", {"prompt": "a", "json_schema": {"minimum": "low"}}, "json_schema"),
        ("/v1/responses", {"input": "a", "text": {"format": {"type": "json_schema", "schema": {"type": 1}}}}, "text"),
    ],
)
def test_what_the_package_refuses_has_the_name_of_the_field(
    ask: Ask, path: str, fields: dict[str, Any], param: str
) -> None:
    body = {**({"messages": USER} if path == CHAT else {}), "max_tokens": 3, **fields}
    if path == "/v1/responses":
        body.pop("max_tokens")
    refused = ask(path, body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    form = {"format": {"type": "json_schema", "schema": {"type": "thing"}}}
    refused = ask("/v1/messages", {"messages": USER, "max_tokens": 3, "output_config": form})
    assert refused.json()["error"]["message"].startswith("output_config: schema")


def test_a_field_without_effect_does_not_limit_logprobs(ask: Ask) -> None:
    asked = {"messages": USER, "max_tokens": 3, "logprobs": True, "best_of": 10**9, "prompt": ["a"] * 10**5}
    whole = ask(CHAT, asked)
    assert whole.status_code == 200, whole.text
    assert len(whole.json()["choices"][0]["logprobs"]["content"]) > 0
    del asked["max_tokens"]
    assert ask(CHAT, {**asked, "stop": ["a", "e"]}).json()["usage"]["completion_tokens"] > 0


def test_logprobs_are_those_of_the_text(ask: Ask) -> None:
    asked = {"messages": USER, "max_tokens": 30, "seed": 4, "temperature": 1, "logprobs": True, "top_logprobs": 2,
             "stop": ["the"]}  # fmt: skip
    whole = ask(CHAT, asked).json()["choices"][0]
    entries = whole["logprobs"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in entries).decode().startswith(whole["message"]["content"])
    assert all(len(one["top_logprobs"]) == 2 for one in entries)
    streamed = [one["choices"][0] for one in events(ask(CHAT, {**asked, "stream": True}))]
    parts = [entry for one in streamed if one.get("logprobs") for entry in one["logprobs"]["content"]]
    assert [one["token"] for one in parts] == [one["token"] for one in entries]
    assert (
        ask(CHAT, {"messages": USER, "max_tokens": 2, "logprobs": True}).json()["choices"][0]["logprobs"]["content"][0][
            "top_logprobs"
        ]
        == []
    )


def test_scores_of_a_prompt(server: Running, ask: Ask) -> None:
    tokens = server.llm.tokenize("Once upon a time", add_special=True).tolist()
    for prompt in ("Once upon a time", tokens):
        found = ask("/v1/completions", {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0}).json()
        (choice,) = found["choices"]
        entries = choice["logprobs"]
        assert choice["text"] == "Once upon a time"
        assert len(entries["tokens"]) == len(entries["token_logprobs"]) == len(entries["text_offset"]) == len(tokens)
        assert (entries["token_logprobs"][0], entries["top_logprobs"][0]) == (None, None)
        assert "".join(entries["tokens"]) == choice["text"]
        expected = server.llm.llama.score(tokens[:1], [tokens[1:]])[0].tokens
        assert entries["token_logprobs"][1:] == pytest.approx([one.logprob for one in expected], abs=1e-3)
        for token, offset in zip(entries["tokens"], entries["text_offset"], strict=True):
            assert choice["text"][offset : offset + len(token)] == token


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "invalid_type", "prompt"),
        ({"prompt": [[1], "a", 2]}, "invalid_type", "prompt[2]"),
        ({"prompt": [5, -1]}, "invalid_value", "prompt[1]"),
        ({"prompt": [5, 100_000]}, "invalid_token", "prompt"),
        ({"prompt": ["a"] * 65}, "invalid_value", "prompt"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"best_of": 2, "n": 3}, "invalid_value", "best_of"),
        ({"prompt": ["a"] * 60, "n": 16, "logprobs": 5, "max_tokens": 500}, "invalid_value", "logprobs"),
        ({"best_of": 2, "stream": True}, "invalid_value", "best_of"),
        ({"suffix": "end"}, "unsupported_parameter", None),
    ],
)
def test_what_is_wrong_with_a_completion(ask: Ask, fields: Any, code: str, param: str | None) -> None:
    assert error(ask("/v1/completions", {"prompt": "a", **fields})) == (400, code, param)


def test_what_is_wrong_with_inputs(ask: Ask) -> None:
    for fields, code, param in (
        ({"input": ""}, "invalid_value", "input[0]"),
        ({"input": []}, "invalid_type", "input"),
        ({"input": "a", "dimensions": 5000}, "invalid_value", "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ({"input": [5, 100_000]}, "invalid_token", "input"),
        ({"input": "a " * 3000}, "context_length_exceeded", "input"),
    ):
        assert error(ask("/v1/embeddings", fields)) == (400, code, param)


# -- paths, keys, origins


def test_paths(ask: Ask) -> None:
    assert error(ask("/v1/nothing")) == (404, "not_found", None)
    assert error(ask("/nothing")) == (404, 404, None)
    assert "base URL" in ask("/v1/v1/models").json()["error"]["message"]
    refused = ask("/v1/models", {})
    assert (error(refused), refused.headers["allow"]) == ((405, "method_not_allowed", None), "GET, HEAD, OPTIONS")
    assert error(ask("/props", {})) == (501, 501, None)
    given = ask("/health", x_request_id="mine-1")
    assert given.headers["x-request-id"] == "mine-1"
    assert ask("/health", x_request_id="a b").headers["x-request-id"].startswith("req-")


def test_keys(server: Running) -> None:
    from llama_cffi.server.settings import Settings

    app = small(Settings(api_keys=("one", "zwei-ä")), loaded=server)
    for path in ("/health", "/livez", "/readyz", "/v1/health"):
        assert call(app, path).status_code == 200
    refused = call(app, "/v1/models")
    assert error(refused) == (401, "invalid_api_key", None)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert call(app, "/v1/models", authorization="Bearer one").status_code == 200
    assert call(app, "/v1/models", authorization="bearer zwei-ä".encode()).status_code == 200  # type: ignore[arg-type]
    assert call(app, "/v1/models", x_api_key="one").status_code == 200
    for wrong in ("Bearer ", "Bearer on", "Basic one", "one"):
        assert call(app, "/v1/models", authorization=wrong).status_code == 401
    assert call(app, "/metrics").status_code == 401
    other = call(app, "/v1/messages", "POST")
    assert (other.status_code, other.json()["error"]["type"]) == (401, "authentication_error")
    assert call(app, "/v1/messages", "POST", x_api_key="one").status_code == 400  # there is no body
    assert call(app, "/v1/messages", "POST", authorization="Bearer one").status_code == 400
    assert call(app, "/v1/models", authorization="Bearer other", x_api_key="one").status_code == 200
    assert call(app, "/v1/chat/completions", "OPTIONS", origin="http://localhost:3000").status_code == 204


def test_origins_and_hosts() -> None:
    from llama_cffi.server.settings import Settings

    app = small()
    local = call(
        app, CHAT, "OPTIONS", origin="http://localhost:3000", access_control_request_headers="x-a, content-type"
    )
    assert local.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert (local.headers["access-control-allow-headers"], local.headers["vary"]) == ("x-a, content-type", "Origin")
    assert error(call(app, "/livez", origin="https://evil.example"))[:2] == (403, 403)
    assert error(call(app, "/livez", origin="null"))[0] == 403
    assert error(call(app, "/livez", host="evil.example"))[0] == 403
    assert call(app, "/livez", host="127.0.0.1:99").status_code == 200
    listed = small(Settings(cors_origins=("https://a.example",), local_pages=False, allowed_hosts=("Box",)))
    assert call(listed, "/livez", origin="https://a.example", host="box").status_code == 200
    assert call(listed, "/livez", origin="http://localhost:1").status_code == 403
    every = small(Settings(cors_origins=("*",)))
    assert call(every, "/livez", origin="https://b.example").headers["access-control-allow-origin"] == "*"


def test_before_the_model_is_loaded(server: Running) -> None:
    app = small()
    assert call(app, "/livez").status_code == 200
    for path in ("/health", "/readyz"):
        loading = call(app, path)
        assert loading.status_code == 503
        assert loading.json()["error"]["message"] == "Loading model"
    assert error(call(app, CHAT, "POST"))[0] == 400  # the body is looked at first
    (model,) = call(app, "/v1/models").json()["data"]
    assert (model["id"], model["meta"], model["status"]["value"]) == ("demo", None, "loading")
    assert 'model_state{model="demo",state="loading"} 1' in call(app, "/metrics").text


def test_strict_names(server: Running) -> None:
    from llama_cffi.server.settings import Settings

    app = small(Settings(strict_model=True, strict_fields=True), loaded=server)

    async def post(body: Any) -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            return await client.post("/v1/completions", json=body)

    assert error(asyncio.run(post({"prompt": "a", "model": "x"}))) == (404, "model_not_found", "model")
    assert error(asyncio.run(post({"prompt": "a", "what": 1}))) == (400, "unknown_field", "what")
    assert asyncio.run(post({"prompt": "a", "model": "demo", "user": "u", "max_tokens": 1})).status_code == 200


# -- llama-server's endpoints


def test_small_endpoints(server: Running, ask: Ask) -> None:
    found = ask("/tokenize", {"content": "Once upon", "add_special": True}).json()["tokens"]
    assert found == server.llm.tokenize("Once upon").tolist()
    assert ask("/detokenize", {"tokens": found[1:]}).json() == {"content": "Once upon"}
    pieces = ask("/tokenize", {"content": ["Once", 5], "with_pieces": True}).json()["tokens"]
    assert (pieces[0]["piece"], pieces[-1]["id"]) == ("Once", 5)
    assert error(ask("/detokenize", {"tokens": [1 << 20]})) == (400, 400, "tokens")
    prompt = ask("/apply-template", {"messages": USER, "with_tokens": True, "temperature": 1}).json()
    assert prompt["prompt"] == server.llm.llama.render_chat(USER)
    assert prompt["tokens"] == server.llm.tokenize_chat(USER).tolist()
    props = ask("/props").json()
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 1024)
    assert props["model_path"] == "demo.gguf"


def test_metrics(server: Running, ask: Ask) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    ask("/v1/completions", {"prompt": "Once", "max_tokens": 3})
    server.until_idle()
    families = {one.name: one for one in parser.text_string_to_metric_families(ask("/metrics").text)}
    tokens = families["llama_cffi_generated_tokens"].samples[0].value
    assert tokens == server.stats.generated_tokens == families["llamacpp:tokens_predicted"].samples[0].value > 0
    requests = families["llama_cffi_http_requests"].samples
    assert any(one.labels == {"handler": "/v1/completions", "method": "POST", "status": "200"} for one in requests)
    gaps = families["llama_cffi_time_to_first_token_seconds"].samples
    counts = [one.value for one in gaps if one.name.endswith("_bucket")]
    assert counts == sorted(counts)
    assert counts[-1] == gaps[-1].value > 0


def test_metrics_of_memory_and_of_the_process(server: Running, ask: Ask) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    from llama_cffi.server.settings import Settings

    ask("/v1/completions", {"prompt": "Once", "max_tokens": 3})
    server.until_idle()
    families = {one.name: one for one in parser.text_string_to_metric_families(ask("/metrics").text)}
    one = {name: found.samples[0].value for name, found in families.items() if found.samples}
    memory = server.stats.memory
    assert one["llama_cffi_kv_cells"] == memory.cells >= memory.used + memory.kept > memory.used == 0
    assert one["llama_cffi_kv_cells_kept"] == memory.kept
    counts = {s.labels["le"]: s.value for s in families["llama_cffi_http_request_seconds"].samples if "le" in s.labels}
    assert counts["+Inf"] > 0
    assert one["process_resident_memory_bytes"] > 10**7
    assert one["process_start_time_seconds"] == pytest.approx(server.service.started, abs=0.01)
    vllm = small(Settings(vllm_metrics=True), loaded=server)
    families = {one.name: one for one in parser.text_string_to_metric_families(call(vllm, "/metrics").text)}
    assert families["vllm:generation_tokens"].samples[0].value == server.stats.generated_tokens
    assert families["vllm:num_requests_running"].samples[0].labels == {"model_name": "demo"}
    assert families["vllm:kv_cache_usage_perc"].samples[0].value == 0
    assert {s.labels["finished_reason"] for s in families["vllm:request_success"].samples} >= {"length"}
    assert families["vllm:time_to_first_token_seconds"].type == "histogram"


def test_the_board_and_the_page_name_metrics_that_are_there(ask: Ask) -> None:
    from llama_cffi.server.router.app import make_router

    types = re.compile(r"^# TYPE (\S+)", re.MULTILINE)
    known = set(types.findall(ask("/metrics").text))

    async def of_several_models() -> set[str]:
        async with pools.pool(pools.entry("a")) as models:
            return set(types.findall((await pools.ask(make_router(models), "/metrics").end()).body.decode()))

    known |= asyncio.run(of_several_models()) | {f"llama_cffi_model_{name}" for name in known if "process_" in name}
    docs = Path(__file__).resolve().parents[2] / "docs"
    board = json.loads((docs / "grafana.json").read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    texts.append((docs / "deploying.md").read_text(encoding="utf-8"))
    names = re.findall(r"(?:llama_cffi|process)_\w\w+", "\n".join(texts))
    used = {name.removesuffix("_bucket") for name in names}
    assert len(used) > 20
    assert sorted(used - known) == []


def test_a_mistake_of_the_server_tells_nothing(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    app = small(loaded=server)
    monkeypatch.setattr("llama_cffi.server.health.json_answer", broken)
    found = call(app, "/livez", x_request_id="r1")
    assert error(found)[0] == 500
    assert "secret" not in found.text
    assert "r1" in found.text
