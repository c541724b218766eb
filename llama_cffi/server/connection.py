"""One connection: uvicorn's protocol, with an end to everything that a client may let the server wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llama_cffi.server.guard import MAX_HEADERS, MAX_URL
from llama_cffi.server.problem import Problem

if TYPE_CHECKING:
    import asyncio

HEAD_SECONDS = 10.0
"""How long the head of a request may take, and the first byte of a new connection."""
IDLE_SECONDS = 75.0
"""How long a connection may be without a request; longer than proxies keep one."""
REST_SECONDS = 10.0
"""How long the rest of a body may take that was answered before it was there."""
STALL_SECONDS = 60.0
"""How long a client may leave more unread than the buffer of its connection holds."""
MAX_HEAD = MAX_HEADERS + MAX_URL + (24 << 10)
"""Bytes of a head that are kept; what of it is too large is told by :class:`~llama_cffi.server.guard.Guard` up to
here."""
MAX_CONNECTIONS = 4096


class Connection(HttpToolsProtocol):
    """A connection of a client that may be slow, or stop reading or writing at any place.

    The body of a request has its time limit where it is read.
    """

    head_seconds, rest_seconds, stall_seconds = HEAD_SECONDS, REST_SECONDS, STALL_SECONDS
    idle_seconds = IDLE_SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        self._n_head = 0
        self._waiting: asyncio.TimerHandle | None = None
        """Ends the wait for the rest of a head, or of a body that was answered already."""
        self._stalled: asyncio.TimerHandle | None = None
        """Ends the wait for a client that does not read."""

    # -- what the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.timeout_keep_alive = self.idle_seconds  # type: ignore[assignment]
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(Problem(503, "too many connections", code="too_many_requests"))
            return
        self._wait(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait(None)
        self._stall(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests; a head that has no end is refused."""
        super().data_received(data)
        if not self._in_head:
            return
        self._n_head += len(data)
        if self._n_head > MAX_HEAD:
            self._refuse(Problem(431, f"the head has more than {MAX_HEAD} bytes", code="headers_too_large"))

    def pause_writing(self) -> None:
        """Give the client some time to read."""
        super().pause_writing()
        self._stall(self.stall_seconds)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stall(None)

    # -- what the parser tells

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._n_head = True, 0
        self._wait(self.head_seconds)

    def on_headers_complete(self) -> None:
        """A head is there, and is answered."""
        self._in_head = False
        self._wait(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is there; if it was answered before, the next one may come."""
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """An answer is sent; what is still to come of its request has little time."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._stall(self.stall_seconds)
        elif self.cycle.response_complete and self.cycle.more_body:
            self._unset_keepalive_if_required()
            self._wait(self.rest_seconds)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has come for long."""
        self._close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not a request of HTTP."""
        self._refuse(Problem(400, "this is not a request of HTTP/1.1", code="invalid_http"))

    # -- the end

    def shutdown(self) -> None:
        """End with the answer that is being sent, or now."""
        super().shutdown()
        if self.transport.is_closing():
            self._stall(self.stall_seconds)

    def abort(self) -> None:
        """End now, whatever was not read."""
        self.transport.abort()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self, seconds: float | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None if seconds is None else self.loop.call_later(seconds, self._waited)

    def _waited(self) -> None:
        self._waiting = None
        if self._in_head and self._n_head:
            self._refuse(Problem(408, "the head of the request did not come in time", code="head_timeout"))
        else:
            self._close()

    def _stall(self, seconds: float | None) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = None if seconds is None else self.loop.call_later(seconds, self.abort)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._stall(self.stall_seconds)

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot become a request, and end."""
        if self._answering():
            # Another answer is on its way, which this one must not get into.
            self.cycle.keep_alive = False
            return
        if self.transport.is_closing():
            return
        body = orjson.dumps(problem.body("openai"))
        head = (
            f"HTTP/1.1 {problem.status} {problem.type}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("latin-1") + body)
        self._close()


__all__ = ["HEAD_SECONDS", "IDLE_SECONDS", "MAX_CONNECTIONS", "MAX_HEAD", "REST_SECONDS", "STALL_SECONDS", "Connection"]
