"""What the parent of several models relays, and what becomes of it when a process or a client goes away."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pools import ask, entry, play, pool, router, run

if TYPE_CHECKING:
    from llama_cffi.server.router.pool import Pool

for _name in ("uvicorn", "httptools", "starlette", "orjson"):
    pytest.importorskip(_name, reason="needs the extra llama-cffi[server]")


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


def test_a_form_reaches_the_model_that_it_names() -> None:
    async def main() -> None:
        async with router("a", "b") as (app, _):
            parts = [("model", "b"), ('file"; filename="a.wav', "RIFF")]
            lines = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{data}\r\n' for name, data in parts]
            form = "".join([*lines, "--x--\r\n"]).encode()
            kind = "multipart/form-data; boundary=x"
            found = (await ask(app, "/v1/audio/transcriptions", form, content_type=kind).end()).json()
            assert found["target"] == "/v1/audio/transcriptions"
            assert (found["body"].encode("latin-1"), found["headers"]["content-type"]) == (form, kind)
            nowhere = form.replace(b"\r\nb\r\n", b"\r\nc\r\n")
            refused = await ask(app, "/v1/audio/transcriptions", nowhere, content_type=kind).end()
            assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")

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
            process = models.models["a"].process
            assert process is not None
            process.path.unlink()  # as if it had died, but it does not
            lost = ask(app, "/v1/completions", play("a", ""))
            while not models.models["a"].n_active:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            lost.leave()
            await lost.end()
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
