"""Pools of models whose processes are :mod:`tests.support.fake_model`, and requests to them without a socket."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.server.router.managed import Entry
    from llama_cffi.server.router.pool import Pool

SCRIPT = Path(__file__).with_name("fake_model.py")


def entry(name: str, *, size: int = 10, **options: Any) -> Entry:
    """A model that takes this many MiB; ``fail`` is the exit code with which it cannot be loaded, ``delay`` seconds."""
    from llama_cffi.server.router.managed import Entry

    given: dict[str, Any] = {"bytes": size << 20}
    given |= {name: options.pop(name) for name in ("fail", "delay") if name in options}
    arguments = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    return Entry(name, tuple(arguments), "models_dir", 1, **options)


@asynccontextmanager
async def pool(*entries: Entry, settings: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Pool]:
    """A pool that is open; ``options`` are those of :class:`PoolOptions`."""
    from llama_cffi.server.router.pool import Pool, PoolOptions
    from llama_cffi.server.router.process import Command
    from llama_cffi.server.settings import Settings

    command = Command((sys.executable, "-S", "-E", str(SCRIPT)), {})
    made = Pool(entries, Settings(**(settings or {})), command, PoolOptions(**options))
    await made.load()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def router(*names: str, **options: Any) -> AsyncIterator[tuple[Any, Pool]]:
    """The application of models with these names, and the pool behind it; ``options`` are those of :func:`pool`."""
    from llama_cffi.server.router.app import make_router

    async with pool(*(entry(name) for name in names), **options) as models:
        yield make_router(models), models


def play(model: str, text: str) -> dict[str, Any]:
    """A request that tells the program what to send."""
    return {"model": model, "play": text}


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in an event loop, for a minute at most."""
    asyncio.run(asyncio.wait_for(main(), 60))


class Exchange:
    """A request to an application, and what has come of the answer."""

    def __init__(self, app: Any, method: str, path: str, body: Any, headers: Mapping[str, str]) -> None:
        path, _, query = path.partition("?")
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": data, "more_body": False})
        self.messages: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in headers.items())],
            "root_path": "", "client": ("test", 1),
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._changed.set()
        self._changed = asyncio.Event()

    def leave(self) -> None:
        """Go away, as a client does."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def until(self, condition: Callable[[Exchange], bool]) -> None:
        """Wait until what has come is so."""
        while not condition(self):
            assert not self.task.done(), self.messages
            await asyncio.wait_for(self._changed.wait(), 30)

    async def end(self) -> Exchange:
        """Wait for all of the answer."""
        await asyncio.wait_for(asyncio.shield(self.task), 30)
        return self

    @property
    def status(self) -> int:
        """The status, or 0 before there is one."""
        return self.messages[0]["status"] if self.messages else 0

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        """What has come of the body."""
        return b"".join(one.get("body", b"") for one in self.messages[1:])

    @property
    def complete(self) -> bool:
        """Whether the body has an end."""
        return bool(self.messages[1:]) and not self.messages[-1].get("more_body", False)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(app: Any, path: str, body: Any = None, *, method: str = "", **headers: str) -> Exchange:
    """Begin a request: POST where there is a body."""
    kind = method or ("GET" if body is None else "POST")
    return Exchange(app, kind, path, body, {name.replace("_", "-"): text for name, text in headers.items()})


__all__ = ["Exchange", "ask", "entry", "play", "pool", "router", "run"]
