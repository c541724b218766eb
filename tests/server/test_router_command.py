"""``llama-cffi serve`` with several models, each of which is a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

for _name in ("uvicorn", "httptools", "starlette", "orjson"):
    pytest.importorskip(_name, reason="needs the extra llama-cffi[server]")
httpx = pytest.importorskip("httpx")
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "llama_cffi" / "models" / "demo.gguf"
ENDLESS = {"prompt": "Once upon a time", "stream": True, "ignore_eos": True, "seed": 1}


class Router:
    """A server with several models, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.client = httpx.Client(base_url=url, timeout=60)
        self.url = url

    def statuses(self) -> dict[str, str]:
        return {one["id"]: one["status"]["value"] for one in self.client.get("/v1/models").json()["data"]}

    def child(self, model: str) -> Any:
        """The process of a model."""
        for one in psutil.Process(self.process.pid).children():
            command = one.cmdline()
            if command[-2:] == ["--alias", model]:
                return one
        raise AssertionError(f"no process of {model}")

    def until(self, model: str, status: str) -> None:
        for _ in range(3000):
            if self.statuses()[model] == status:
                return
            time.sleep(0.01)
        raise AssertionError((model, status, self.statuses()))


@contextmanager
def serving(*arguments: str) -> Iterator[Router]:
    command = [sys.executable, "-m", "llama_cffi", "serve", "--port", "0", "-c", "256", "-t", "1", "-np", "2",
               "--context-shift", *arguments]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMA_API_KEY": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), (line, process.stderr.read())
            router = Router(process, line.split()[0])
            # What is written to a pipe that is full waits.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield router
            router.client.close()
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b", "c"):
        (folder / f"{name}.gguf").symlink_to(DEMO)
    with serving("--models-dir", str(folder), "--models-max", "2") as made:
        yield made


def test_two_clients_with_two_models_at_once(router: Router) -> None:
    openai = pytest.importorskip("openai")

    def told(model: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(
                model=model, prompt="Once upon a time", max_tokens=40, temperature=0, stream=True
            )
            chunks = list(stream)
        return chunks[0].model, "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(2) as threads:
        (first, text), (second, other) = threads.map(told, ("a", "b"))
    assert (first, second) == ("a", "b")
    assert len(text) > 40
    assert text == other
    assert router.statuses() == {"a": "loaded", "b": "loaded", "c": "unloaded"}
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
        assert [one.id for one in client.models.list()] == ["a", "b", "c"]
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model="d", prompt="x")
        assert caught.value.code == "model_not_found"
    text = router.client.get("/metrics").text
    assert 'llama_cffi_generated_tokens_total{model="a"} 40' in text
    assert text.count("# TYPE llama_cffi_generated_tokens_total") == 1


def test_the_parent_has_no_model(router: Router) -> None:
    maps = Path(f"/proc/{router.process.pid}/maps")
    if not maps.is_file():
        pytest.skip("no /proc")
    assert "libllama" not in maps.read_text()


def test_a_killed_process_costs_its_own_requests(router: Router) -> None:
    with router.client.stream("POST", "/v1/completions", json={**ENDLESS, "model": "a"}) as other:
        others = other.iter_lines()
        next(others)
        with router.client.stream("POST", "/v1/completions", json={**ENDLESS, "model": "b"}) as response:
            lines = response.iter_lines()
            next(lines)
            router.child("b").send_signal(signal.SIGKILL)
            last = [line for line in lines if line][-1]
        error = json.loads(last[6:])["error"]
        assert error["code"] == "model_crashed"
        assert "signal SIGKILL" in error["message"]
        again = router.client.post("/v1/completions", json={"model": "b", "prompt": "Once", "max_tokens": 1})
        assert again.status_code == 200
        next(others)  # it goes on
    assert router.statuses() == {"a": "loaded", "b": "loaded", "c": "unloaded"}


def test_processes_end_with_a_parent_that_is_killed(router: Router) -> None:
    children = psutil.Process(router.process.pid).children()
    assert len(children) == 2
    with router.client.stream("POST", "/v1/completions", json={**ENDLESS, "model": "a"}) as response:
        next(response.iter_lines())
        router.process.kill()
    psutil.wait_procs(children, 20)
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.conformance
def test_one_model_that_sleeps_lets_requests_finish_at_its_end() -> None:
    with serving("-m", str(DEMO), "--sleep-idle-seconds", "0.2", "--memory-limit", "4000") as router:
        router.until("demo", "sleeping")
        body = {"prompt": "Once", "max_tokens": 1, "model": "any"}
        assert router.client.post("/v1/completions", json=body).json()["model"] == "demo"
        with router.client.stream("POST", "/v1/completions", json={**ENDLESS, "max_tokens": 60}) as response:
            lines = response.iter_lines()
            next(lines)
            child = router.child("demo")
            assert 'llama_cffi_model_memory_bytes{model="demo"} 0\n' not in router.client.get("/metrics").text
            router.process.send_signal(signal.SIGTERM)
            left = [line for line in lines if line]
        assert left[-1] == "data: [DONE]"
        assert router.process.wait(60) == 0
        assert not child.is_running()


@pytest.mark.conformance
def test_a_limit_that_the_model_exceeds_ends_the_command() -> None:
    command = [sys.executable, "-m", "llama_cffi", "serve", "--port", "0", "-m", str(DEMO), "--sleep-idle-seconds", "9"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMA_API_KEY": ""}
    done = subprocess.run(
        [*command, "--memory-limit", "1"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 1
    assert "--memory-limit is 1 MiB" in done.stderr
    assert "Traceback" not in done.stderr
