"""What the parent of several models relays, and what it answers itself."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pools import Exchange, ask, entry, pool

if TYPE_CHECKING:
    from llama_cffi.server.router.pool import Pool

for _name in ("uvicorn", "httptools", "starlette", "orjson"):
    pytest.importorskip(_name, reason="needs the extra llama-cffi[server]")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


@asynccontextmanager
async def router(*names: str, **options: Any) -> AsyncIterator[tuple[Any, Pool]]:
    from llama_cffi.server.router.app import make_router

    async with pool(*(entry(name) for name in names), **options) as models:
        yield make_router(models), models


def play(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "play": text}


def test_a_request_reaches_its_model_as_it_came() -> None:
    async def main() -> None:
        async with router("a", "b", settings={"api_keys": ("k",), "api_prefix": "/p"}) as (app, _):
            body = {"model": "b", "text": "\u00e9\u20ac", "none": None}
            found = await ask(
                app, "/p/v1/chat/completions?x=%20y", body, authorization="Bearer k", x_priority="3", cookie="c",
                x_request_id="me",
            ).end()  # fmt: skip
            echo = found.json()
            assert (found.status, found.complete, found.headers["x-own"]) == (200, True, "1")
            assert found.headers["x-request-id"] == "me"
            assert "date" not in found.headers  # uvicorn writes its own
            assert (echo["method"], echo["target"]) == ("POST", "/v1/chat/completions?x=%20y")
            assert echo["body"].encode("latin-1") == json.dumps(body).encode()
            assert echo["headers"]["x-priority"] == "3"
            assert echo["headers"]["x-request-id"] == "me"
            assert not {"authorization", "cookie"} & echo["headers"].keys()
            refused = await ask(app, "/p/v1/chat/completions", body).end()
            assert refused.status == 401
            large = {"model": "b", "text": "\u00e9" * 1_000_000}
            found = await ask(app, "/p/tokenize", large, authorization="Bearer k").end()
            assert found.json()["body"] == json.dumps(large)
            head = await ask(app, "/p/slots?model=b", method="HEAD", authorization="Bearer k").end()
            assert (head.status, head.complete, head.body) == (200, True, b"")
            assert int(head.headers["content-length"]) > 0

    run(main)


def test_every_path_of_one_model_is_relayed_or_answered() -> None:
    from llama_cffi.server.app import ROUTES

    async def main() -> None:
        async with router("a") as (app, _):
            await ask(app, "/tokenize", {"model": "a"}).end()
            for pattern, methods in ROUTES.items():
                path = pattern.replace("{id:path}", "a").replace("{id}", "0")
                for method in methods:
                    body: Any = [] if pattern == "/lora-adapters" and method == "POST" else {"model": "a"}
                    found = await ask(app, f"{path}?model=a", body if method == "POST" else None, method=method).end()
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


ENDINGS = (
    ("/v1/chat/completions", b'data: {"error":{', "model_crashed"),
    ("/completion", b'data: {"error":{', 502),
    ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error"', None),
    ("/v1/responses", b'event: error\ndata: {"type":"error","sequence_number":3,"code":"model_crashed"', None),
)


def test_a_process_that_dies_ends_a_stream_with_an_error_of_its_dialect() -> None:
    async def main() -> None:
        async with router("a", "b") as (app, models):
            other = ask(app, "/v1/chat/completions", play("b", "events 1 wait"))
            await other.until(lambda one: bool(one.body))
            for path, begin, code in ENDINGS:
                models.find("a").forgive()
                found = await ask(app, path, play("a", "events 3 die")).end()
                assert (found.status, found.complete) == (200, True)
                *events, last, end = found.body.split(b"\n\n")
                assert events == [b'event: x\ndata: {"sequence_number":%d}' % i for i in range(3)]
                assert last.startswith(begin)
                assert end == b""
                assert b"exit code 9" in last
                assert b"it dies" in last
                if code is not None:
                    assert json.loads(last[6:])["error"]["code"] == code
                assert models.models["a"].status == "failed"
                assert not other.task.done()
            models.find("a").forgive()
            again = await ask(app, "/v1/messages", {"model": "a"}).end()
            assert again.status == 200
            other.leave()
            await other.end()

    run(main)


def test_a_process_that_dies_before_it_answers_is_a_status() -> None:
    async def main() -> None:
        async with router("a") as (app, models):
            for text in ("events 0 die", "part 0 die"):
                models.find("a").forgive()
                found = await ask(app, "/v1/completions", play("a", text)).end()
                assert (found.status, found.json()["error"]["code"]) == (502, "model_crashed")
            models.find("a").forgive()
            # A part of a text is not made to look like all of it.
            found = await ask(app, "/v1/completions", play("a", "part 5 die")).end()
            assert (found.status, found.body, found.complete) == (200, b"xxxxx", False)

    run(main)


def test_a_client_that_leaves_ends_its_request() -> None:
    async def main() -> None:
        async with router("a") as (app, models):
            found = ask(app, "/v1/completions", play("a", "events 1 wait"))
            await found.until(lambda one: bool(one.body))
            assert models.models["a"].n_active == 1
            found.leave()
            await found.end()
            assert models.models["a"].n_active == 0
            slow = ask(app, "/v1/completions", play("a", "part 0 wait"))  # no byte has come
            while not models.models["a"].n_active:
                await asyncio.sleep(0.005)
            slow.leave()
            await slow.end()
            assert models.models["a"].n_active == 0

    run(main)


def test_a_client_that_does_not_read_stops_the_process_from_sending() -> None:
    async def main() -> None:
        async with router("a") as (app, _):
            blocked = asyncio.Event()
            n_sent = 0
            body = json.dumps(play("a", "events 40000 end")).encode()
            incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

            async def send(message: dict[str, Any]) -> None:
                nonlocal n_sent
                n_sent += len(message.get("body", b""))
                if n_sent and not blocked.is_set():
                    await blocked.wait()

            scope = {"type": "http", "method": "POST", "path": "/completion", "raw_path": b"/completion",
                     "query_string": b"", "headers": [(b"host", b"localhost")], "client": None}  # fmt: skip
            task = asyncio.ensure_future(app(scope, incoming.get, send))
            while not n_sent:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.3)
            (reader,) = [one for one in _readers() if one]
            assert max(reader) <= 1 << 19  # and not the 2 MB of all events
            blocked.set()
            await asyncio.wait_for(task, 30)
            assert n_sent > 1_500_000

    run(main)


def _readers() -> list[list[int]]:
    import gc

    return [[len(one._buffer) for one in gc.get_objects() if isinstance(one, asyncio.StreamReader)]]  # type: ignore[attr-defined]


def test_the_end_of_the_server_cuts_streams_with_an_error() -> None:
    async def main() -> None:
        async with router("a", settings={"drain_timeout": 0.1}) as (app, models):
            streams = [ask(app, path, play("a", "events 1 wait")) for path in ("/v1/completions", "/v1/messages")]
            whole = ask(app, "/v1/completions", play("a", "part 0 wait"))
            listener = ask(app, "/models/sse")
            for one in streams:
                await one.until(lambda one: bool(one.body))
            models.begin_drain()
            late = await ask(app, "/v1/completions", play("a", "")).end()
            assert (late.status, late.json()["error"]["code"]) == (503, "shutting_down")
            for one in (*streams, whole, listener):
                await one.end()
                assert one.complete
            assert b'"shutting_down"' in streams[0].body
            assert b"overloaded_error" in streams[1].body
            assert (whole.status, whole.json()["error"]["code"]) == (503, "shutting_down")

    run(main)


def test_an_unloaded_model_ends_what_takes_too_long_itself() -> None:
    async def main() -> None:
        async with pool(entry("a", stop_timeout=0.05)) as models:
            from llama_cffi.server.router.app import make_router

            app = make_router(models)
            found = ask(app, "/v1/completions", play("a", "events 1 wait"))
            await found.until(lambda one: bool(one.body))
            await ask(app, "/models/unload", {"model": "a"}).end()
            await found.end()
            assert found.complete
            assert found.body.endswith(b'}\n\ndata: {"cut":true}\n\n')

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


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(4))
def test_random_requests_of_models_that_fail(seed: int) -> None:
    """Whatever happens to a process, every answer has an end: all of it, an error of its dialect, or a status."""
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def one(app: Any, models: Pool, name: str, outcomes: Counter[str]) -> None:
        n = chance.choice((0, 1, 3, 2000))
        kind, then = chance.choice(("events", "part")), chance.choice(("end", "end", "end", "die", "wait"))
        if kind == "part":
            n = min(n, 100) if then != "end" else 100
        path = chance.choice(("/v1/completions", "/v1/messages", "/completion", "/v1/responses"))
        exchange = ask(app, path, play(name, f"{kind} {n} {then}"))
        if then == "wait" or chance.random() < 0.1:
            await asyncio.sleep(chance.random() * 0.2)
            exchange.leave()
            await exchange.end()
            outcomes["left"] += 1
            return
        await exchange.end()
        if exchange.status != 200:
            assert exchange.complete
            assert exchange.status in (502, 503, 529)
            assert "error" in exchange.json()
            outcomes["refused"] += 1
        elif kind == "part":
            assert exchange.complete == (len(exchange.body) == 100)
            outcomes["whole" if exchange.complete else "cut"] += 1
        else:
            assert exchange.complete
            blocks = exchange.body.split(b"\n\n")
            assert blocks.pop() == b""
            datas = [json.loads(block[block.index(b"data: ") + 6 :]) for block in blocks]
            failed = bool(datas) and ("error" in datas[-1] or datas[-1].get("type") == "error")
            assert [data["sequence_number"] for data in datas[: len(datas) - failed]] == [*range(len(datas) - failed)]
            assert failed or len(datas) == n
            outcomes["failed" if failed else "streamed"] += 1

    async def main() -> None:
        from llama_cffi.server.router.app import make_router

        names = "abc"
        outcomes: Counter[str] = Counter()
        async with pool(*(entry(name) for name in names), max_models=2, settings={"drain_timeout": 0.2}) as models:
            app = make_router(models)
            asked = []
            for _ in range(150):
                name = chance.choice(names)
                model = models.models[name]
                model.forgive()
                match chance.randrange(20):
                    case 0:
                        asked.append(ask(app, "/models/load", {"model": name}).task)
                    case 1:
                        asked.append(ask(app, "/models/unload", {"model": name}).task)
                    case 2 if model.process is not None:
                        model.process.kill()
                    case _:
                        asked.append(asyncio.ensure_future(one(app, models, name, outcomes)))
                await asyncio.sleep(chance.random() * 0.05)
            await asyncio.gather(*asked)
            assert all(model.n_active == model.n_waiting == 0 for model in models.models.values())
            print(dict(outcomes))
            assert min(outcomes[kind] for kind in ("left", "whole", "streamed", "failed", "refused")) > 0

    asyncio.run(asyncio.wait_for(main(), 120))
