"""The process of a model, as the parent sees it: started, asked, told to end, and what it said last."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi.server.router.link import Order

if TYPE_CHECKING:
    from asyncio.subprocess import Process

_N_LINES, _LINE = 20, 400
"""How many lines of a process's log are kept, and bytes of each."""
_REST_SECONDS = 1.0
"""How long the end of a log is waited for when its process has ended."""


class ProcessEnded(Exception):
    """The process of a model has ended."""


@dataclass(frozen=True)
class Command:
    """How processes of models are started."""

    arguments: tuple[str, ...]
    """The program; the number of its socket and the arguments of the model follow."""
    environment: Mapping[str, str]


class ModelProcess:
    """A process that serves one model on a socket file; :meth:`start` makes one."""

    def __init__(self, process: Process, path: Path, on_line: Callable[[str], object]) -> None:
        self.path = path
        self.pid = process.pid
        self.lines: deque[str] = deque(maxlen=_N_LINES)
        """The last lines of its log."""
        self.exited: asyncio.Future[int]
        """Its exit code, or minus the number of the signal that ended it."""
        self._process = process
        self._on_line = on_line
        self._writer: asyncio.StreamWriter | None = None
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    @classmethod
    async def start(
        cls, command: Command, arguments: Sequence[str], path: Path, on_line: Callable[[str], object]
    ) -> ModelProcess:
        """Start the process of a model, which listens on ``path``; raises OSError.

        ``on_line`` gets each line of its log.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *command.arguments, str(theirs.fileno()), *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(),), env=dict(command.environment),
                start_new_session=True,  # Ctrl-C is for the parent, which ends this one in order
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        found = cls(process, path, on_line)
        try:
            reader, found._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            process.kill()
            ours.close()
            raise
        reading = asyncio.ensure_future(found._read_log())
        told = asyncio.ensure_future(found._read_events(reader))
        found.exited = asyncio.ensure_future(found._wait(reading, told))
        return found

    async def plan(self) -> int:
        """Return the bytes that the model needs; :class:`ProcessEnded` where it cannot be loaded."""
        self.order("plan")
        return int((await self._next("planned", lambda value: None))["bytes"])

    async def load(self, on_progress: Callable[[float], object]) -> dict[str, Any]:
        """Let the model be loaded, and return what clients are told of it; :class:`ProcessEnded` where it cannot be.

        ``on_progress`` gets the part that is loaded.
        """
        self.order("load")
        found: dict[str, Any] = (await self._next("loaded", on_progress))["card"]
        return found

    def order(self, order: Order) -> None:
        """Send an order; one that has ended does not get it."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps({"order": order}).encode() + b"\n")

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def end(self, seconds: float, *, cut: bool = False) -> None:
        """Let it end, and kill it after this many seconds; ``cut`` ends what it answers still with an error."""
        self.order("end")
        if cut:
            self.order("cut")
        done, _ = await asyncio.wait({self.exited}, timeout=seconds)
        if not done:
            self.kill()
            await asyncio.wait({self.exited})

    def words(self) -> str:
        """Return how it ended and what it said last."""
        if not self.exited.done():
            return "it has closed the connection"
        code = self.exited.result()
        how = f"exit code {code}" if code >= 0 else _signal_name(-code)
        if code == -signal.SIGKILL:
            how += ", as the system ends a process when memory runs out"
        lines = "\n".join(list(self.lines)[-8:])
        return f"it ended with {how}" + (f"; the last lines of its log:\n{lines}" if lines else "")

    async def _next(self, wanted: str, on_progress: Callable[[float], object]) -> dict[str, Any]:
        while (event := await self._events.get()) is not None:
            if event["event"] == wanted:
                return event
            if event["event"] == "progress":
                on_progress(event["value"])
        await asyncio.wait({self.exited})
        raise ProcessEnded(self.words())

    async def _read_events(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                self._events.put_nowait(json.loads(line))
        self._events.put_nowait(None)

    async def _read_log(self) -> None:
        stream, rest = self._process.stdout, b""
        assert stream is not None
        while data := await stream.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_LINE:]
            for line in lines:
                self._note(line)
        self._note(rest)

    def _note(self, line: bytes) -> None:
        text = line[:_LINE].decode("utf-8", "replace").rstrip()
        if text:
            self.lines.append(text)
            self._on_line(text)

    async def _wait(self, reading: asyncio.Task[None], told: asyncio.Task[None]) -> int:
        code = await self._process.wait()
        # What it started itself may hold the ends of these open.
        _, pending = await asyncio.wait({reading, told}, timeout=_REST_SECONDS)
        for task in pending:
            task.cancel()
        self._events.put_nowait(None)
        if self._writer is not None:
            self._writer.close()
        with suppress(OSError):
            os.unlink(self.path)
        return code


def _signal_name(number: int) -> str:
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"


__all__ = ["Command", "ModelProcess", "ProcessEnded"]
