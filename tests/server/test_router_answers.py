"""What the parent of several models answers itself: states, lists, metrics, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from tests.support.pools import Exchange, ask, entry, pool, router, run

for _name in ("uvicorn", "httptools", "starlette", "orjson"):
    pytest.importorskip(_name, reason="needs the extra llama-cffi[server]")


def test_every_path_of_one_model_is_relayed_or_answered() -> None:
    from llama_cffi.server.app import ROUTES

    async def main() -> None:
        async with router("a") as (app, _):
            await ask(app, "/tokenize", {"model": "a"}).end()
            for pattern, methods in ROUTES.items():
                path = pattern.replace("{id:path}", "a").replace("{id}", "0")
                for method in methods:
                    body: Any = [] if pattern == "/lora-adapters" and method == "POST" else {"model": "a"}
                    given: dict[str, Any] = {"body": body if method == "POST" else None, "method": method}
                    if pattern.endswith("/audio/transcriptions"):
                        part = b'Content-Disposition: form-data; name="model"\r\n\r\na'
                        given |= {"body": b"--x\r\n" + part + b"\r\n--x--\r\n"}
                        given |= {"content_type": "multipart/form-data; boundary=x"}
                    found = await ask(app, f"{path}?model=a", **given).end()
                    assert found.status in (200, 501), (method, path, found.body)

    run(main)


@pytest.mark.parametrize(
    ("path", "query", "body", "status", "code"),
    [
        ("/v1/chat/completions", "", {"model": "c"}, 404, "model_not_found"),
        ("/v1/chat/completions", "", {}, 400, "missing_model"),
        ("/v1/chat/completions", "", {"model": 3}, 400, "invalid_type"),
        ("/v1/chat/completions", "?autoload=no", {"model": "a"}, 400, "invalid_value"),
        ("/v1/chat/completions", "?autoload=false", {"model": "a"}, 400, "model_not_loaded"),
        ("/v1/messages", "", {"model": "c"}, 404, None),
        ("/slots", "?model=a", None, 400, 400),
        ("/slots", "?model=c", None, 404, 404),
        ("/v1/models/c", "", None, 404, "model_not_found"),
        ("/models/load", "", {"model": "c"}, 404, 404),
        ("/models/unload", "", {"model": "a"}, 400, 400),
        ("/models/unload", "", {}, 400, 400),
    ],
)
def test_what_is_refused(path: str, query: str, body: Any, status: int, code: Any) -> None:
    async def main() -> None:
        async with router("a", "b") as (app, models):
            found = await ask(app, path + query, body).end()
            error = found.json()["error"]
            assert (found.status, error.get("code")) == (status, code)
            assert {one.status for one in models.models.values()} == {"unloaded"}

    run(main)


def test_states_are_listed_and_told() -> None:
    async def main() -> None:
        async with router("a", "b") as (app, models):
            listener = ask(app, "/models/sse")
            await listener.until(lambda one: bool(one.body))

            async def told(name: str) -> Any:
                listed = (await ask(app, "/v1/models").end()).json()["data"]
                one = (await ask(app, f"/v1/models/{name}").end()).json()
                assert one == next(two for two in listed if two["id"] == name)
                return one["status"]["value"]

            assert await told("a") == "unloaded"
            assert (await ask(app, "/models/load", {"model": "a"}).end()).json() == {"success": True}
            assert await told("a") == "loading"
            await ask(app, "/tokenize", {"model": "a"}).end()
            assert await told("a") == "loaded"
            assert (await ask(app, "/v1/models/a").end()).json()["max_model_len"] == 7
            process = models.models["a"].process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            await asyncio.wait({process.exited})
            await asyncio.sleep(0)
            status = (await ask(app, "/models").end()).json()["data"][0]["status"]
            assert (status["value"], status["failed"], status["exit_code"]) == ("failed", True, -9)
            await ask(app, "/tokenize", {"model": "a"}).end()
            assert (await ask(app, "/models/unload", {"model": "a"}).end()).json() == {"success": True}
            await listener.until(lambda one: b'"unloaded"' in one.body)
            listener.leave()
            await listener.end()
            events = [json.loads(line[6:]) for line in listener.body.decode().split("\n\n") if line.startswith("data")]
            assert {(one["model"], one["event"]) for one in events} == {("a", "model_status")}
            states = [one["data"]["status"] for one in events]
            order = [state for i, state in enumerate(states) if not i or states[i - 1] != state]
            assert order == ["loading", "loaded", "failed", "loading", "loaded", "unloading", "unloaded"]
            assert models.events == set()

    run(main)


def test_adapters_and_aliases_are_models() -> None:
    async def main() -> None:
        async with pool(entry("a", aliases=("x",), adapters=("ad",)), entry("b")) as models:
            from llama_cffi.server.router.app import make_router

            app = make_router(models)
            listed = (await ask(app, "/v1/models").end()).json()["data"]
            assert [(one["id"], one.get("parent")) for one in listed] == [("a", None), ("ad", "a"), ("b", None)]
            assert (await ask(app, "/v1/models/x").end()).json()["id"] == "a"
            theirs = (await ask(app, "/v1/models", anthropic_version="2023-06-01").end()).json()
            assert [one["id"] for one in theirs["data"]] == ["a", "ad", "b"]
            found = await ask(app, "/v1/completions", {"model": "ad"}).end()
            assert json.loads(found.json()["body"]) == {"model": "ad"}  # the process knows what it means
            assert (await ask(app, "/v1/completions", {"model": "x"}).end()).status == 200
            assert models.models["b"].status == "unloaded"

    run(main)


def test_a_kept_response_is_found_without_its_model() -> None:
    async def main() -> None:
        async with router("a", "b", "c") as (app, models):
            for method in ("GET", "DELETE"):
                found = await ask(app, "/v1/responses/resp_kept_by_b", method=method).end()
                assert (found.status, found.json()["error"]["code"]) == (404, "response_not_found")
            for name in ("a", "b"):
                await ask(app, "/tokenize", {"model": name}).end()
            for method in ("GET", "DELETE"):
                found = await ask(app, "/v1/responses/resp_kept_by_b", method=method).end()
                assert (found.status, found.json()["method"]) == (200, method)
            found = await ask(app, "/v1/responses/resp_kept_by_c").end()
            assert found.status == 404
            assert models.models["c"].status == "unloaded"
            assert all(model.idle for model in models.models.values())

    run(main)


def test_the_list_may_be_read_again() -> None:
    async def main() -> None:
        async with router("a") as (app, models):
            models.read_entries = lambda: [entry("b")]
            for query, names in (("", ["a"]), ("?reload=1", ["b"])):
                found = (await ask(app, f"/models{query}").end()).json()
                assert [one["id"] for one in found["data"]] == names

            def fail() -> Any:
                raise ValueError("no folder")

            models.read_entries = fail
            found = await ask(app, "/models?reload=1").end()
            assert (found.status, "no folder" in found.json()["error"]["message"]) == (409, True)
            assert list(models.models) == ["b"]

    run(main)


def test_what_only_looks_neither_loads_nor_wakes() -> None:
    async def main() -> None:
        async with router("a", "b", sleep_seconds=0.2) as (app, models):
            assert (await ask(app, "/props").end()).json()["role"] == "router"
            for path in ("/health", "/livez", "/readyz", "/metrics", "/models"):
                assert (await ask(app, path).end()).status == 200
            assert (await ask(app, "/props?model=a").end()).status == 400
            await ask(app, "/tokenize", {"model": "a"}).end()
            while models.models["a"].status != "sleeping":
                await ask(app, "/props?model=a").end()
                await asyncio.sleep(0.02)
            props = (await ask(app, "/props?model=a").end()).json()
            assert (props["is_sleeping"], props["default_generation_settings"]["n_ctx"]) == (True, 7)
            assert (await ask(app, "/slots?model=a&autoload=true").end()).status == 200

    run(main)


def test_metrics_of_all_models_in_one_text() -> None:
    from llama_cffi.server.router.metrics import merged

    parts = [
        ("a", "# HELP x_total X.\n# TYPE x_total counter\nx_total 1\nx_total{y=\"2\"} 2\n"
              "# HELP process_open_fds O.\n# TYPE process_open_fds gauge\nprocess_open_fds 3\n"
              "# HELP llama_cffi_http_requests_total O.\nllama_cffi_http_requests_total 3\n"),
        ('b"', "# HELP x_total X.\n# TYPE x_total counter\nx_total{model=\"b\"} 5\n"),
    ]  # fmt: skip
    assert merged(parts) == [
        "# HELP x_total X.",
        "# TYPE x_total counter",
        'x_total{model="a"} 1',
        'x_total{model="a",y="2"} 2',
        'x_total{model="b"} 5',
        "# HELP llama_cffi_model_process_open_fds O.",
        "# TYPE llama_cffi_model_process_open_fds gauge",
        'llama_cffi_model_process_open_fds{model="a"} 3',
    ]
    assert merged([('b"', "# TYPE x gauge\nx 1")])[-1] == 'x{model="b\\""} 1'


def test_one_model_answers_any_name_and_is_ready_when_it_is_loaded() -> None:
    async def main() -> None:
        async with router("a", only=True) as (app, models):
            assert (await ask(app, "/readyz").end()).status == 200
            for body in ({"model": "gpt-4"}, {}):
                found: Exchange = await ask(app, "/v1/completions", body).end()
                assert found.status == 200
            assert (await ask(app, "/props").end()).status == 200
            process = models.models["a"].process
            assert process is not None
            process.kill()
            await asyncio.wait({process.exited})
            await asyncio.sleep(0)
            assert (await ask(app, "/readyz").end()).status == 503

    run(main)
