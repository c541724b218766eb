"""Streams of events in each dialect: pings, and what is said when something goes wrong or the server ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi.reply.reply import ReplyChunk
from tests.support.canned import Canned, said

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

DIALECTS: Any = ("openai", "anthropic", "native")


def sent(dialect: Any, failure: Exception | None) -> tuple[int, list[str]]:
    """The status of a stream that waits for a ping before it ends, and its events."""
    from llama_cffi.server.response import Events

    parts: list[Any] = []

    async def main() -> None:
        pinged = asyncio.Event()

        async def frames() -> AsyncGenerator[bytes, None]:
            yield b"data: 1\n\n"
            await pinged.wait()
            if failure is not None:
                raise failure
            yield b"data: 2\n\n"

        async def send(message: Any) -> None:
            parts.append(message)
            if b"ping" in message.get("body", b"") or message.get("body") == b":\n\n":
                pinged.set()

        await Events(frames(), dialect, "r1", 0.001).send(send, {})

    asyncio.run(main())
    data = b"".join(one["body"] for one in parts[1:]).decode()
    return parts[0]["status"], [one for one in data.split("\n\n") if one]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_pings(dialect: Any) -> None:
    status, found = sent(dialect, None)
    assert (status, found[0], found[-1]) == (200, "data: 1", "data: 2")
    assert set(found[1:-1]) == {'event: ping\ndata: {"type":"ping"}' if dialect == "anthropic" else ":"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_is_the_last_event(dialect: Any) -> None:
    from llama_cffi.server.problem import Problem

    _, found = sent(dialect, Problem(503, "too late", code="queue_timeout"))
    last = found[-1]
    if dialect == "anthropic":
        assert last.startswith("event: error\n")
        error = json.loads(last.partition("data: ")[2])
        assert error == {
            "type": "error",
            "error": {"type": "overloaded_error", "message": "too late"},
            "request_id": "r1",
        }
    else:
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == (503 if dialect == "native" else "queue_timeout")


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (405, "invalid_request_error"), (413, "request_too_large"),
        (429, "rate_limit_error"), (500, "api_error"), (501, "api_error"), (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)  # fmt: skip
def test_types_of_errors_in_anthropic_s_words(status: int, type_: str) -> None:
    from llama_cffi.server.problem import Problem
    from llama_cffi.server.response import problem_answer

    answer = problem_answer(Problem(status, "no"), "anthropic", "r1")
    assert json.loads(answer.content)["error"] == {"type": type_, "message": "no"}
    assert answer.status == (529 if status == 503 else status)


class Endless(Canned):
    """A reply that never ends."""

    async def __anext__(self) -> ReplyChunk:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            await asyncio.Event().wait()
            raise


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_the_end_of_the_server(server: Running, monkeypatch: pytest.MonkeyPatch, path: str, stream: bool) -> None:
    httpx = pytest.importorskip("httpx")
    from llama_cffi.server.app import make_app
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    async def open_model() -> Any:
        return server.llm

    async def main() -> Any:
        service = Service(open_model, Settings(), "demo")
        await service.load()
        begun = asyncio.Event()

        def stream_chat(*_: Any, **__: Any) -> Endless:
            begun.set()
            return Endless([said("Once")])

        monkeypatch.setattr(server.llm, "stream_chat", stream_chat)
        transport = httpx.ASGITransport(app=make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            turns = [{"role": "user", "content": "Hi"}]
            body = {"input" if path.endswith("responses") else "messages": turns, "stream": stream}
            asked = asyncio.ensure_future(client.post(path, json=body))
            await begun.wait()
            for _ in range(20):
                await asyncio.sleep(0)  # the first chunk is sent
            service.begin_drain()
            service.begin_drain()
            return await asked

    found = asyncio.run(main())
    if not stream:
        assert found.status_code == (529 if path.endswith("messages") else 503)
        assert "shutting down" in found.json()["error"]["message"]
        return
    assert found.status_code == 200
    last = found.text.rstrip("\n").rpartition("data: ")[2]
    assert "Once" in found.text
    assert "shutting down" in last
    assert json.loads(last).get("type") == {"messages": "error", "responses": "response.failed"}.get(
        path.rpartition("/")[2]
    )
