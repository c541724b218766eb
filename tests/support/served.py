"""A server without a socket: requests go straight to its application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import AsyncLlama, Llama

if TYPE_CHECKING:
    from llama_cffi import LoraAdapter
    from llama_cffi.server.settings import Settings


class Served:
    """A model that is served; :func:`served` makes one. Answers are those of httpx, streams read to their end."""

    def __init__(self, llama: Llama, settings: Settings, adapters: Sequence[LoraAdapter]) -> None:
        from llama_cffi.server.app import make_app
        from llama_cffi.server.service import Service

        self.llm = AsyncLlama(llama)

        async def open_model() -> AsyncLlama:
            return self.llm

        self.service = Service(open_model, settings, "served")
        self.service.adapters = tuple(adapters)
        asyncio.run(self.service.load())
        self._app = make_app(self.service)

    def ask(self, path: str, body: Any = None, *, method: str = "", headers: Any = None, **form: Any) -> Any:
        """The answer to JSON that is posted, to a ``form`` (as httpx takes ``data`` and ``files``), or to a GET."""
        import httpx

        async def main() -> Any:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                kind = method or ("GET" if body is None and not form else "POST")
                return await client.request(kind, path, json=body, headers=headers, **form)

        return asyncio.run(main())


def events(response: Any) -> list[Any]:
    """The events of a stream in llama-server's own form."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line and line != ":"]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines]


@contextmanager
def served(llama: Llama, settings: Settings | None = None, adapters: Sequence[LoraAdapter] = ()) -> Iterator[Served]:
    """A server for a model, which stays open."""
    pytest.importorskip("httpx")
    pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
    pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")
    from llama_cffi.server.settings import Settings

    made = Served(llama, settings or Settings(), adapters)
    yield made
    asyncio.run(made.service.close())


__all__ = ["Served", "events", "served"]
