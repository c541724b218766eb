"""A server with the demo model, on a free port, in a thread of the tests' own process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import AsyncLlama, ContextOptions

if TYPE_CHECKING:
    from llama_cffi.engine.snapshot import EngineSnapshot
    from llama_cffi.server.run import Server
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

# One thread: several wait for each other, which takes long on a busy machine.
OPTIONS: Any = {"n_ctx": 1024, "n_seq_max": 2, "overflow": "shift", "max_waiting": 4}
OPTIONS |= {"n_threads": 1, "n_threads_batch": 1}
# In half precision a text depends on what was in memory and in the batch.
OPTIONS |= {"context_options": ContextOptions(type_k="f32", type_v="f32", flash_attn="disabled")}


@dataclass
class Running:
    """A server that answers."""

    port: int
    service: Service
    llm: AsyncLlama

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stats(self) -> EngineSnapshot:
        return self.llm.stats()

    def until(self, condition: Callable[[EngineSnapshot], bool]) -> EngineSnapshot:
        """Wait until the engine's counts are so."""
        for _ in range(4000):
            stats = self.stats
            if condition(stats):
                return stats
            time.sleep(0.005)
        raise AssertionError(f"it does not come true: {stats}")

    def until_idle(self) -> EngineSnapshot:
        """Wait until nothing runs, waits or is being answered."""
        found = self.until(lambda stats: stats.running == stats.waiting == 0 and not self.service.tasks)
        return found


@contextmanager
def serving(sock: socket.socket, settings: Settings, llm: AsyncLlama | None = None) -> Iterator[tuple[Server, Running]]:
    """A server in a thread, with a model of its own unless one is given."""
    from llama_cffi.server.run import Server
    from llama_cffi.server.service import Service

    async def open_model() -> AsyncLlama:
        return llm or await AsyncLlama.demo(**OPTIONS)

    service = Service(open_model, settings, "demo")
    running = Server(service)
    failed: list[BaseException] = []

    async def main() -> None:
        running.loop = asyncio.get_running_loop()
        try:
            await service.load()
            await running.serve(sockets=[sock])
        finally:
            if llm is None:
                await service.close()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)

    port = sock.getsockname()[1] if sock.family != socket.AF_UNIX else 0
    thread = threading.Thread(target=work)
    thread.start()
    while not running.started and not failed:
        time.sleep(0.005)
    assert not failed
    try:
        yield running, Running(port, service, service.llm)
    finally:
        running.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
        assert not failed


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    for name in ("uvicorn", "httptools", "starlette", "orjson"):
        pytest.importorskip(name, reason="needs the extra llama-cffi[server]")
    from llama_cffi.server.run import bind
    from llama_cffi.server.settings import Settings

    settings = Settings(names=("demo", "org/other"), max_body=1 << 20)
    with serving(bind("127.0.0.1", 0), settings) as (_, running):
        yield running


@pytest.fixture
def ask(server: Running) -> Iterator[Callable[..., Any]]:
    """Posts JSON, or gets where there is none."""
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def send(path: str, body: Any = None, **headers: str) -> Any:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is None:
                return client.get(path, headers=names)
            if isinstance(body, dict) and path.endswith(("completions", "messages", "responses")):
                body = {"seed": 1, **body}  # a text of chance may end sooner than a test expects
            return client.post(path, json=body, headers=names)

        yield send
