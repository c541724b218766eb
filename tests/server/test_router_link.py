"""The connection between a parent and the process of a model, from the process's end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from typing import Any

import pytest

from llama_cffi.server.router.link import ORPHANED, Link


def test_orders_events_and_the_end_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()
    done: list[Any] = []

    def leave(code: int) -> None:
        done.append(code)
        ended.set()

    monkeypatch.setattr(os, "kill", lambda pid, number: done.append((pid == os.getpid(), number)))
    monkeypatch.setattr(os, "_exit", leave)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        link = Link(theirs)

        def order(*orders: str) -> None:
            writer.write(b"".join(json.dumps({"order": one}).encode() + b"\n" for one in orders))

        async def told() -> Any:
            return json.loads(await asyncio.wait_for(reader.readline(), 10))

        link.progress(0.5)  # before there is anybody to tell
        link.tell("lost")
        admitted = asyncio.ensure_future(link.admit(lambda: 12345))
        order("plan")
        assert await told() == {"event": "planned", "bytes": 12345}
        assert not admitted.done()
        order("load")
        await admitted

        def load() -> None:
            for i in range(1001):
                link.progress(i / 1000)

        await asyncio.to_thread(load)
        parts: list[float] = []
        while not parts or parts[-1] < 1:
            parts.append((await told())["value"])
        assert len(parts) < 110
        assert parts == sorted(parts)
        order("end", "cut")
        failed = False
        link.end_when(lambda: failed)
        while len(done) < 2:
            await asyncio.sleep(0.001)
        assert done == [(True, signal.SIGTERM), (True, signal.SIGINT)]
        failed = True
        while len(done) < 3:
            await asyncio.sleep(0.01)
        assert done[2] == (True, signal.SIGTERM)
        writer.close()
        await asyncio.wait_for(ended.wait(), 10)
        assert done[3] == ORPHANED
        link.tell("lost")

    asyncio.run(main())
