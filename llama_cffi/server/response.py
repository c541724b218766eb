"""Answers: whole ones, and streams of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import orjson

from llama_cffi.server.problem import Dialect, Problem, problem_of

if TYPE_CHECKING:
    from starlette.types import Send

DONE = b"data: [DONE]\n\n"
PING = b":\n\n"
_PINGS: Mapping[Dialect, bytes] = {"anthropic": b'event: ping\ndata: {"type":"ping"}\n\n'}
"""Pings of the dialects that have more than a comment for it."""
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class Answer(Protocol):
    """What a handler returns."""

    async def send(self, send: Send, headers: Mapping[str, str]) -> int:
        """Send it, with further headers, and return its status."""


@runtime_checkable
class Stream(Answer, Protocol):
    """An answer that comes in parts."""

    async def cut(self, send: Send, problem: Problem) -> bool:
        """End one that was cancelled with an error; False when nothing of it was sent."""


@dataclass(frozen=True)
class Whole:
    """An answer that is ready."""

    content: bytes
    status: int = 200
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, send: Send, headers: Mapping[str, str]) -> int:
        """See :class:`Answer`."""
        length = {"content-type": self.type, "content-length": str(len(self.content))}
        await send(start_message(self.status, {**length, **headers, **self.headers}))
        await send({"type": "http.response.body", "body": self.content})
        return self.status


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Whole:
    """Return an answer of JSON."""
    return Whole(orjson.dumps(value), status, headers=headers or {})


def problem_answer(problem: Problem, dialect: Dialect, request_id: str = "") -> Whole:
    """Return the answer to what cannot be answered."""
    return json_answer(problem.body(dialect, request_id), problem.status_in(dialect), problem.headers)


def event(value: Any) -> bytes:
    """Return a server-sent event with JSON data."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named_event(value: Mapping[str, Any]) -> bytes:
    """Return a server-sent event that is called as the ``type`` of its data says."""
    name: str = value["type"]
    return b"event: " + name.encode() + b"\n" + event(value)


@dataclass
class Events:
    """An answer that comes in server-sent events.

    The status waits for the first event, or for the first ping: what is wrong with the request still gets its own
    status. What fails later becomes a last event.
    """

    frames: AsyncGenerator[bytes, None]
    dialect: Dialect
    request_id: str
    ping_seconds: float | None
    """After this many seconds without an event a ping is sent; None sends none."""
    ending: Callable[[Problem], bytes] | None = None
    """What returns the events of what went wrong, where the dialect has others than the body of an error."""
    _began: bool = False
    _ended: bool = False
    """Whether its last event was sent, or is on its way."""

    async def send(self, send: Send, headers: Mapping[str, str]) -> int:
        """See :class:`Answer`."""
        lock = asyncio.Lock()

        async def write(data: bytes, more: bool = True) -> None:
            async with lock:
                if not self._began:
                    await send(start_message(200, {**headers, **_STREAM_HEADERS}))
                    self._began = True
                await send({"type": "http.response.body", "body": data, "more_body": more})

        loop = asyncio.get_running_loop()
        last = loop.time()

        async def ping(seconds: float) -> None:
            nonlocal last
            while True:
                await asyncio.sleep(max(0.001, last + seconds - loop.time()))
                if loop.time() - last >= seconds:
                    last = loop.time()
                    await write(_PINGS.get(self.dialect, PING))

        pinging = None if self.ping_seconds is None else asyncio.ensure_future(ping(self.ping_seconds))
        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    last = loop.time()
                    await write(frame)
        except Exception as error:
            if not self._began:
                raise
            await write(self.last_words(problem_of(error, self.request_id)))
        finally:
            if pinging is not None:
                pinging.cancel()
        self._ended = True
        await write(b"", more=False)
        return 200

    async def cut(self, send: Send, problem: Problem) -> bool:
        """See :class:`Stream`."""
        if self._began:
            words = b"" if self._ended else self.last_words(problem)
            await send({"type": "http.response.body", "body": words, "more_body": False})
        return self._began

    def last_words(self, problem: Problem) -> bytes:
        """Return the event of what went wrong."""
        if self.ending is not None:
            return self.ending(problem)
        body = problem.body(self.dialect, self.request_id)
        return named_event(body) if self.dialect == "anthropic" else event(body)


def start_message(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the message of ASGI that begins an answer."""
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


__all__ = [
    "DONE",
    "PING",
    "Answer",
    "Events",
    "Stream",
    "Whole",
    "event",
    "json_answer",
    "named_event",
    "problem_answer",
]
