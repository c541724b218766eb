"""Responses that are kept: bounded in number and size, and later ones go on from them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
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


def test_the_input_of_a_response_is_listed(server: Running, assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.server.app import make_app
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings
    from tests.support.openapi import openapi

    given: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"role": "user", "content": "Where?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"role": "assistant", "content": "I will look."},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "Rome"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "So?"}]},
    ]
    monkeypatch.setattr(server.llm, "stream_chat", lambda messages, **options: Canned(everything()))

    async def open_model() -> Any:
        return server.llm

    async def main() -> None:
        service = Service(open_model, Settings(response_store=2), "demo")
        await service.load()
        transport = httpx.ASGITransport(app=make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            made = (await client.post("/v1/responses", json={"input": given})).json()
            path = f"/v1/responses/{made['id']}/input_items"
            whole = (await client.get(path, params={"order": "asc"})).json()
            openapi(assets).check("ResponseItemList", whole)
            assert [one["type"] for one in whole["data"]] == [one.get("type", "message") for one in given]
            assert [one.get("role") for one in whole["data"]] == [one.get("role") for one in given]
            texts = [one["content"][0].get("text") for one in whole["data"] if "content" in one]
            assert texts == ["Be kind.", "Where?", "Hm.", "I will look.", None, "So?"]
            assert len({one["id"] for one in whole["data"]}) == len(given)
            assert whole["has_more"] is False
            assert (await client.get(path)).json()["data"] == whole["data"][::-1]

            paged: list[Any] = []
            more: dict[str, Any] = {"has_more": True}
            while more["has_more"]:
                after = {"after": paged[-1]["id"]} if paged else {}
                more = (await client.get(path, params={"order": "asc", "limit": 3, **after})).json()
                paged += more["data"]
                assert (more["first_id"], more["last_id"]) == (more["data"][0]["id"], more["data"][-1]["id"])
            assert paged == whole["data"]
            behind = (await client.get(path, params={"order": "asc", "after": paged[-1]["id"]})).json()
            assert (behind["data"], behind["has_more"]) == ([], False)

            following = await client.post("/v1/responses", json={"input": "And?", "previous_response_id": made["id"]})
            path = f"/v1/responses/{following.json()['id']}/input_items"
            listed = (await client.get(path, params={"order": "asc"})).json()
            openapi(assets).check("ResponseItemList", listed)
            assert listed["data"][len(given) : -1] == made["output"]

            for params in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "msg_x"}):
                refused = await client.get(path, params=params)
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(params)))
            assert (await client.get("/v1/responses/resp_x/input_items")).status_code == 404
            assert (await client.post("/v1/responses/resp_x/cancel")).status_code == 404
            cancelled = await client.post(f"/v1/responses/{made['id']}/cancel")
            assert cancelled.status_code == 400
            assert "background" in cancelled.json()["error"]["message"]

    asyncio.run(main())
