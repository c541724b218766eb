"""Responses that are kept: bounded in number and size, and later ones go on from them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi.reply.completion import FinishReason
from tests.support.canned import Canned, ended, everything, said

if TYPE_CHECKING:
    from tests.server.conftest import Running

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")


def test_the_oldest_go_first() -> None:
    for seed in range(50):
        keep_some(random.Random(seed))


def keep_some(chance: random.Random) -> None:
    """Compare a store with a list."""
    from llama_cffi.server.openai.response_store import ResponseStore
    from llama_cffi.server.problem import Problem

    limit, max_bytes = chance.randrange(4), chance.choice((300, 1 << 20))
    store = ResponseStore(limit, max_bytes)
    kept: list[tuple[str, int]] = []
    for i in range(40):
        if kept and chance.random() < 0.2:
            store.remove(kept.pop(chance.randrange(len(kept)))[0])
        text = "a" * chance.randrange(200)
        store.put({"id": f"{i:02}", "output": [text]}, [])
        kept.append((f"{i:02}", len(text)))
        kept = kept[max(0, len(kept) - limit) :]
        overhead = len('[]{"id":"00","output":[""]}')
        while sum(size + overhead for _, size in kept) > max_bytes:
            kept.pop(0)
        assert len(store) == len(kept)
        assert [store.get(name).items for name, size in kept] == [["a" * size] for _, size in kept]
    with pytest.raises(Problem) as caught:
        store.get("99")
    assert caught.value.code == "response_not_found"


def test_a_response_goes_on_from_another(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.server.app import make_app
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    given: list[Any] = []
    replies = [everything(), ended([said("Rome.")], FinishReason.STOP), ended([said("Yes.")], FinishReason.STOP)]

    def stream_chat(messages: Any, **options: Any) -> Canned:
        given.append(messages)
        return Canned(replies[min(len(given), 3) - 1])

    async def open_model() -> Any:
        return server.llm

    async def main() -> None:
        service = Service(open_model, Settings(response_store=2), "demo")
        await service.load()
        transport = httpx.ASGITransport(app=make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def ask(**body: Any) -> Any:
                found = await client.post("/v1/responses", json=body)
                assert found.status_code == 200, found.text
                return found.json()

            first = await ask(input="Where?", instructions="Be kind.")
            assert first["store"] is True
            assert (await client.get(f"/v1/responses/{first['id']}")).json() == first
            results = [{"type": "function_call_output", "call_id": f"call_id{i}", "output": "ok"} for i in range(2)]
            second = await ask(input=results, previous_response_id=first["id"], stream=False)
            assert second["previous_response_id"] == first["id"]
            last = await ask(input="Sure?", previous_response_id=second["id"], store=False)
            assert last["store"] is False
            assert (await client.get(f"/v1/responses/{last['id']}")).status_code == 404
            assert [one["role"] for one in given[2]] == ["user", "assistant", "tool", "tool", "assistant", "user"]
            assert [one["content"] for one in given[2]] == ["Where?", "I will look.", "ok", "ok", "Rome.", "Sure?"]
            assert given[2][1]["reasoning_content"] == "Let me think."
            assert [one["id"] for one in given[2][1]["tool_calls"]] == ["id0", "id1"]
            assert given[0][0] == {"role": "system", "content": "Be kind."}
            stream = await client.post(
                "/v1/responses", json={"input": "And?", "previous_response_id": second["id"], "stream": True}
            )
            assert "response.completed" in stream.text
            lost = await client.post("/v1/responses", json={"input": "a", "previous_response_id": first["id"]})
            assert (lost.status_code, lost.json()["error"]["code"]) == (400, "previous_response_not_found")
            gone = (await client.delete(f"/v1/responses/{second['id']}")).json()
            assert gone == {"id": second["id"], "object": "response", "deleted": True}
            assert (await client.delete(f"/v1/responses/{second['id']}")).status_code == 404

    monkeypatch.setattr(server.llm, "stream_chat", stream_chat)
    asyncio.run(main())
