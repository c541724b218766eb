"""``llama-cffi serve`` in a process of its own: its one line, signals, and what it cannot do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.serve_command import ROOT, serving, wait_ready

pytest.importorskip("uvicorn", reason="needs the extra llama-cffi[server]")
httpx = pytest.importorskip("httpx")


@pytest.mark.parametrize("stream", [True, False])
def test_a_signal_ends_streams_with_an_error_and_the_process_with_0(stream: bool) -> None:
    body = {"prompt": "Once upon a time", "stream": stream, "ignore_eos": True}
    with serving("--context-shift", "--drain-timeout", "0", "--alias", "tiny") as (process, url):
        wait_ready(url)
        with httpx.Client(base_url=url, timeout=60) as client:
            if stream:
                with client.stream("POST", "/v1/completions", json=body) as response:
                    lines = response.iter_lines()
                    assert json.loads(next(lines)[6:])["model"] == "tiny"
                    process.send_signal(signal.SIGTERM)
                    last = [line for line in lines if line][-1]
                found = json.loads(last[6:])
            else:
                data = json.dumps(body).encode()
                address = (httpx.URL(url).host, httpx.URL(url).port)
                with closing(socket.create_connection(address, timeout=60)) as sock:
                    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
                    sock.sendall(head.encode() + data)
                    while "requests_running{" not in (text := client.get("/metrics").text) or not re.search(
                        r"requests_running\{[^}]*\} 1\n", text
                    ):
                        time.sleep(0.01)
                    process.send_signal(signal.SIGINT)
                    with sock.makefile("rb") as file:
                        answer = file.read()
                assert answer.startswith(b"HTTP/1.1 503")
                found = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert found["error"]["code"] == "shutting_down"
        assert process.wait(60) == 0


def test_a_request_that_runs_may_finish() -> None:
    body = {"prompt": "Once upon a time", "stream": True, "ignore_eos": True, "max_tokens": 100, "temperature": 0}
    with serving("--context-shift") as (process, url):
        wait_ready(url)
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            left = [line for line in lines if line]
        assert left[-1] == "data: [DONE]"
        assert json.loads(left[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 0


def test_a_server_on_a_file_with_settings_from_a_file(tmp_path: Path) -> None:
    path, log, config = tmp_path / "x.sock", tmp_path / "log", tmp_path / "serve.ini"
    config.write_text(f"host = {path}\nalias = tiny\nctx-size = 512\nthreads = 1\ntemp = 0\nlog-jsonl = on\n"
                      f"access-log = true\nlog-file = {log}\ncontext-shift = true\nno-ui = true\n")  # fmt: skip
    command = [sys.executable, "-m", "llama_cffi", "serve", "--config", str(config), "-cb", "--seed", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMA_API_KEY": ""}
    body = {"prompt": "Once upon a time", "ignore_eos": True, "stream": True}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"unix:{path} serves tiny, 8 at once\n"
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=60) as client:
                wait_ready("http://x", client)
                params = client.get("/props").json()["default_generation_settings"]["params"]
                assert (params["temperature"], params["seed"]) == (0, 4)
                assert client.get("/").status_code == 404
                with client.stream("POST", "/v1/completions", json=body) as response:
                    lines = response.iter_lines()
                    next(lines)
                    process.send_signal(signal.SIGTERM)
                    next(lines)  # it goes on
                    process.send_signal(signal.SIGINT)
                    last = [line for line in lines if line][-1]
            assert json.loads(last[6:])["error"]["code"] == "shutting_down"
            assert process.wait(60) == 130
            assert process.stderr is not None
            assert "-cb has no effect" in process.stderr.read()
        finally:
            if process.poll() is None:
                process.kill()
    assert not path.exists()
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["status"] for one in entries if one.get("route") == "/v1/completions"] == [200]
    assert "Once upon" not in log.read_text()


def test_a_third_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.server import run
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    async def open_model() -> Any:
        raise AssertionError("it is not loaded")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    service = Service(open_model, Settings(drain_timeout=100), "demo")
    server = run.Server(service)

    async def main() -> None:
        server.loop = asyncio.get_running_loop()
        for draining, cutting in ((True, False), (True, True)):
            server.handle_exit(signal.SIGTERM, None)
            await asyncio.sleep(0)
            assert (server.should_exit, service.state == "draining", service.cutting) == (True, draining, cutting)
        with pytest.raises(SystemExit) as caught:
            server.handle_exit(signal.SIGTERM, None)
        assert caught.value.code == 143

    asyncio.run(main())


def test_a_hangup_reads_the_keys_again() -> None:
    from llama_cffi.server import run
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    async def open_model() -> Any:
        raise AssertionError("it is not loaded")

    def missing() -> Any:
        raise FileNotFoundError("gone")

    server = run.Server(Service(open_model, Settings(api_keys=("old",)), "demo"))

    async def status(key: str) -> int:
        transport = httpx.ASGITransport(app=server.guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = await client.get("/v1/models", headers={"x-api-key": key})
            return int(found.status_code)

    async def main() -> None:
        assert [await status("old"), await status("new")] == [200, 401]
        server.change_keys(lambda: ("new", "newer"))
        assert [await status("old"), await status("new"), await status("newer")] == [401, 200, 200]
        server.change_keys(missing)
        assert [await status("old"), await status("new")] == [401, 200]

    asyncio.run(main())


def test_a_signal_ends_loading() -> None:
    from llama_cffi.errors import ModelLoadCancelled
    from llama_cffi.server import run
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    begun = threading.Event()

    def load() -> Any:
        begun.set()
        while service.state != "draining":  # as a model's callback for its progress looks
            time.sleep(0.001)
        raise ModelLoadCancelled("no")

    async def open_model() -> Any:
        return await asyncio.to_thread(load)

    service = Service(open_model, Settings(), "demo")

    def interrupt() -> None:
        begun.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with closing(run.bind("127.0.0.1", 0)) as sock:
        assert run.run(service, [sock]) is False
    thread.join()


def test_a_port_that_is_taken_is_said_so() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "llama_cffi", "serve", "--port", port],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_model_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"no model")
    done = subprocess.run(
        [sys.executable, "-m", "llama_cffi", "serve", "--port", "0", "-m", str(file)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "x.gguf" in done.stderr


def test_nothing_of_it_is_imported_before_it_is_needed() -> None:
    names = "n for n in ('starlette', 'uvicorn', 'orjson') if n in sys.modules"
    code = f"import sys, llama_cffi, llama_cffi.cli.app; print(*({names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("\n", "")
