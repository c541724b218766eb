"""The connection between the parent and the process of a model: orders down, events up, and the parent's end.

Both are lines of JSON on a pair of sockets. The parent's end of it closes with the parent, however that ends, and the
process then ends, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

Order = Literal["plan", "load", "end", "cut"]
"""``plan`` asks for the memory that the model needs, ``load`` lets it be loaded, ``end`` lets the process end with the
requests that run, and ``cut`` ends these, too."""

ORPHANED = 70
"""The exit code of a process whose parent has gone."""
_SIGNALS = {"end": signal.SIGTERM, "cut": signal.SIGINT}
"""Two different ones: equal ones that follow each other quickly may arrive as one."""
_WATCH_SECONDS = 0.5
"""How often the engine is looked at."""
_STEP = 0.01
"""Progress is told in steps of this size."""


class Link:
    """The process's own end of the connection. It is used in one event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._orders: asyncio.Queue[str] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watching: asyncio.Task[None] | None = None
        self._told = -1.0
        self._failing: asyncio.Task[None] | None = None

    async def admit(self, plan: Callable[[], int]) -> None:
        """Wait until the model may be loaded; ``plan`` returns its bytes, and is called where the parent asks."""
        self._loop = asyncio.get_running_loop()
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._watching = asyncio.ensure_future(self._watch(reader))
        while (order := await self._orders.get()) != "load":
            if order == "plan":
                self.tell("planned", bytes=await asyncio.to_thread(plan))

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the parent of an event."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps({"event": event, **facts}).encode() + b"\n")

    def progress(self, part: float) -> None:
        """Tell how much of the model is loaded, from 0 to 1; any thread may call it."""
        if self._loop is not None and (part >= 1 or part - self._told >= _STEP):
            self._told = part
            self._loop.call_soon_threadsafe(lambda: self.tell("progress", value=round(part, 3)))

    def end_when(self, failed: Callable[[], bool]) -> None:
        """End the process when the engine has failed: the parent starts another one, which nothing else does."""

        async def watch() -> None:
            while not failed():
                await asyncio.sleep(_WATCH_SECONDS)
            os.kill(os.getpid(), signal.SIGTERM)

        self._failing = asyncio.ensure_future(watch())

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                order = json.loads(line)["order"]
                if order in _SIGNALS:
                    os.kill(os.getpid(), _SIGNALS[order])
                else:
                    self._orders.put_nowait(order)
        os._exit(ORPHANED)  # no caller is left to answer


def die_with_parent() -> None:
    """Let the system end this process with its parent, where it can: also when no Python code runs any more.

    Elsewhere the connection to the parent does it, which needs the event loop.
    """
    import ctypes

    with suppress(OSError, AttributeError):
        # PR_SET_PDEATHSIG is 1.
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)


__all__ = ["ORPHANED", "Link", "Order", "die_with_parent"]
