"""One request and its answer: the body is read, a handler is asked, and a client that goes away ends it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from llama_cffi.server.blame import problem_about
from llama_cffi.server.body import BodyForm, Disconnected, parse_body, read_body
from llama_cffi.server.deadline import within
from llama_cffi.server.problem import Dialect, Problem, problem_of
from llama_cffi.server.request_media import RequestMedia
from llama_cffi.server.response import Answer, Events, Stream, problem_answer
from llama_cffi.server.service import Service
from llama_cffi.server.serving import Serving, cut_off

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_GRACE_SECONDS = 2.0
"""How much longer than its time a request may take that has a deadline of its own: that one says more."""


class Call:
    """A request as a handler sees it."""

    def __init__(
        self, serving: Serving, scope: Scope, dialect: Dialect, body: dict[str, Any], data: bytes = b""
    ) -> None:
        self.serving = serving
        self.scope = scope
        self.dialect: Dialect = dialect
        self.body = body
        """The fields that were given; those that are null are not among them."""
        self.raw_path: str = (scope.get("raw_path") or b"").decode("latin-1")
        """The path as the client said it."""
        self.data = data
        """The body as it came."""
        self.path_params: Mapping[str, str] = scope.get("path_params", {})
        self.query: Mapping[str, str] = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        """What stands behind the question mark."""
        self.headers: Mapping[str, str] = scope["llama_cffi"]["headers"]
        self.request_id: str = scope["llama_cffi"]["request_id"]
        self.model = serving.id if isinstance(serving, Service) else ""
        """The name of what answers: the model, or an adapter that was asked for as a model."""
        self.created = int(time.time())
        takes_media = isinstance(serving, Service) and serving.takes_media
        self.media = RequestMedia() if takes_media else None
        """What images and sounds are read from; None for a model that takes none."""
        self.ignored: list[str] = []
        """Fields that have no effect; the answer names them in a header."""
        self.given: Mapping[str, str] = {}
        """The names of the fields that were read, by the options that they became."""
        self.ping_interval: float = serving.settings.ping_interval
        """Seconds without an event after which a stream gets a comment; a negative number for never."""

    @property
    def service(self) -> Service:
        """The model behind the server; TypeError where it has none of its own."""
        if not isinstance(self.serving, Service):
            raise TypeError("this server has no model of its own")
        return self.serving

    def ignore(self, name: str) -> None:
        """Note a field without an effect; a name that cannot stand in a header is left out."""
        if len(self.ignored) < 32 and name.isascii() and name.replace("_", "").replace(".", "").isalnum():
            self.ignored.append(name[:64])

    def events(self, frames: Any, ending: Callable[[Problem], bytes] | None = None) -> Events:
        """Return a stream of these events; ``ending`` is as :attr:`Events.ending`."""
        pings = None if self.ping_interval < 0 else max(1.0, float(self.ping_interval))
        return Events(frames, self.dialect, self.request_id, pings, ending)


Handler = Callable[[Call], Awaitable[Answer]]

_FORMS: dict[Handler, BodyForm] = {}


def takes(*, list_as: str = "", nothing: bool = False, form: bool = False) -> Callable[[Handler], Handler]:
    """Return a decorator for a handler of other bodies than objects; the arguments are those of :class:`BodyForm`."""

    def mark(handler: Handler) -> Handler:
        _FORMS[handler] = BodyForm(list_as, nothing, form)
        return handler

    return mark


def form_of(handler: Handler) -> BodyForm:
    """Return what bodies a handler takes."""
    return _FORMS.get(handler, BodyForm())


def make_id(prefix: str, mark: str = "-") -> str:
    """Return a new id."""
    return f"{prefix}{mark}{secrets.token_urlsafe(18).replace('-', 'A').replace('_', 'B')}"


class Endpoint:
    """An ASGI application for one path: its handlers by method. HEAD is GET without the body."""

    def __init__(self, service: Serving, dialect: Dialect, handlers: Mapping[str, Handler]) -> None:
        self.service, self.dialect, self.handlers = service, dialect, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self._answer(scope, receive, send))
        self.service.tasks.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self.service.tasks.discard(task)
            if not task.done():
                task.cancel()
        if not task.cancelled():
            task.result()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts = scope["llama_cffi"]
        call: Call | None = None
        answer: Answer
        try:
            handler = self._handler(scope["method"])
            body: dict[str, Any] = {}
            data = b""
            if scope["method"] == "POST":
                data = await read_body(receive, facts["headers"], self.service.settings.max_body)
                body = await parse_body(data, form_of(handler), facts["headers"])
            call = Call(self.service, scope, self.dialect, body, data)
            facts["status"] = await self._watched(handler, call, receive, send, facts["reply_headers"])
            return
        except Disconnected:
            facts["status"] = 499
            return
        except asyncio.CancelledError:
            if not self.service.cutting:
                raise
            answer = problem_answer(cut_off(), self.dialect, facts["request_id"])
        except Exception as error:
            request_id = facts["request_id"]
            if call is not None:
                problem = problem_about(error, request_id, call.body, call.given)
            else:
                problem = problem_of(error, request_id)
            answer = problem_answer(problem, self.dialect, request_id)
        facts["status"] = await answer.send(send, facts["reply_headers"])

    def _handler(self, method: str) -> Handler:
        handler = self.handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join([*self.handlers, *(["HEAD"] if "GET" in self.handlers else []), "OPTIONS"])
            raise Problem(
                405, f"{method} is not for this path: {allowed}", code="method_not_allowed", headers={"Allow": allowed}
            )
        return handler

    async def _watched(
        self, handler: Handler, call: Call, receive: Receive, send: Send, headers: Mapping[str, str]
    ) -> int:
        """Ask the handler and send its answer, until the client goes away."""
        work = asyncio.ensure_future(self._work(handler, call, send, headers))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Disconnected
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            if work.cancelled() or not self.service.cutting:
                raise
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                with suppress(BaseException):
                    await work
        return work.result()

    async def _work(self, handler: Handler, call: Call, send: Send, headers: Mapping[str, str]) -> int:
        answer: Answer | None = None
        try:
            async with within(self.service.settings.request_timeout + _GRACE_SECONDS):
                answer = await handler(call)
            if call.ignored:
                headers = {**headers, "x-llama-cffi-ignored": ",".join(call.ignored)}
            return await answer.send(send, headers)
        except asyncio.CancelledError:
            if self.service.cutting and isinstance(answer, Stream) and await answer.cut(send, cut_off()):
                return 200
            raise


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


__all__ = ["Call", "Endpoint", "Handler", "form_of", "make_id", "takes"]
