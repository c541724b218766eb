"""Requests that the process of a model answers: they are passed on as they came, and so are the answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llama_cffi.server.body import Disconnected
from llama_cffi.server.exchange import Call, Handler, form_of, takes
from llama_cffi.server.problem import Dialect, Problem, wrong
from llama_cffi.server.response import Answer, event, named_event, start_message
from llama_cffi.server.router.managed import ManagedModel
from llama_cffi.server.router.pool import Lease, Pool
from llama_cffi.server.router.upstream import Upstream, UpstreamGone

if TYPE_CHECKING:
    from starlette.types import Send

_HOP = {"connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade"}
_OF_THE_PARENT = _HOP | {"host", "content-length", "expect", "authorization", "x-api-key", "origin", "cookie"}
_OF_THE_PARENT |= {"proxy-authorization", "x-request-id", "x-forwarded-for", "forwarded"}
"""Headers of a request that are not passed on: the parent has acted on them, and processes of models know no keys."""
_OWN_ANSWER = _HOP | {"date", "server"}
"""Headers of an answer that the parent's own answer has itself."""
_KEPT = "/v1/responses/"
"""How paths begin that name a response and no model."""
_END_SECONDS = 2.0
"""How long the end of a process that closed a connection is waited for, in order to say why."""
_NUMBER = re.compile(rb'"sequence_number":(\d+)')
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class Relayed:
    """An answer of a model's process.

    The status waits for the first byte of the body: a process that ends before that becomes a status of its own.
    Events are passed on whole, so that an error that follows stands by itself.
    """

    def __init__(self, upstream: Upstream, lease: Lease, call: Call) -> None:
        self._upstream, self._lease = upstream, lease
        self._dialect: Dialect = call.dialect
        self._request_id = call.request_id
        self._responses = "/responses" in call.scope["path"]
        self._events = upstream.headers.get("content-type", "").startswith("text/event-stream")
        self._began = self._ended = False
        self._held = self._last = b""

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self._upstream.status

    def close(self) -> None:
        """End it without sending it."""
        self._upstream.close()
        self._lease.release()

    async def send(self, send: Send, headers: Mapping[str, str]) -> int:
        """See :class:`~llama_cffi.server.response.Answer`."""
        upstream = self._upstream
        try:
            data = await self._next()
            theirs = {name: value for name, value in upstream.headers.items() if name not in _OWN_ANSWER}
            await send(start_message(upstream.status, {**theirs, **headers}))
            self._began = True
            while data is not None:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                data = await self._next()
            self._ended = True
            await send({"type": "http.response.body", "body": self._held, "more_body": False})
        except UpstreamGone:
            problem = await died(self._lease)
            if not self._began:
                raise problem from None
            if not self._events:
                raise Disconnected from None  # a part of a text must not look like all of it
            await self.cut(send, problem)
        finally:
            self.close()
        return upstream.status

    async def cut(self, send: Send, problem: Problem) -> bool:
        """See :class:`~llama_cffi.server.response.Stream`."""
        if self._began and (self._events or self._ended):
            words = b"" if self._ended else self._last_words(problem)
            await send({"type": "http.response.body", "body": words, "more_body": False})
        return self._began

    async def _next(self) -> bytes | None:
        """Return what can be sent now, or None at the end."""
        while True:
            data = await self._upstream.read()
            if data is None or not self._events:
                return data
            data = self._held + data
            end = data.rfind(b"\n\n") + 2
            if end == 1:
                self._held = data
                continue
            self._held = data[end:]
            self._last = data[:end] if self._held else data
            return self._last

    def _last_words(self, problem: Problem) -> bytes:
        if self._responses:
            numbers = _NUMBER.findall(self._last)
            return named_event(
                {
                    "type": "error",
                    "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
                    "code": problem.code,
                    "message": problem.message,
                    "param": None,
                }
            )
        body = problem.body(self._dialect, self._request_id)
        return named_event(body) if self._dialect == "anthropic" else event(body)


async def died(lease: Lease) -> Problem:
    """Return the problem of a request whose process has gone."""
    await asyncio.wait({lease.process.exited}, timeout=_END_SECONDS)
    message = f"the process of the model {lease.model.id!r} has failed: {lease.process.words()}"
    return Problem(502, message, code="model_crashed")


def name_of(call: Call) -> str | None:
    """Return the model that a request names, in its body or behind ``?model=``."""
    name = call.body.get("model", call.query.get("model"))
    if name is not None and not isinstance(name, str):
        raise Problem(400, "model: must be a text", code="invalid_type", param="model")
    return name or None


def autoload_of(call: Call) -> bool | None:
    """Return whether a request loads its model as it says itself; None where it does not say."""
    text = call.query.get("autoload")
    if text is not None and text not in _TRUTH:
        raise wrong("autoload", f"must be true or false, got {text[:20]!r}")
    return None if text is None else _TRUTH[text]


async def relay(pool: Pool, call: Call) -> Answer:
    """Let the process of the model that a request names answer it.

    What only asks about a model does not load it unless it says so, and does not keep it from sleeping.
    """
    name = name_of(call)
    if name is None and len(pool.models) > 1 and call.scope["path"].startswith(_KEPT):
        return await _of_any(pool, call)
    works = call.scope["method"] == "POST"
    autoload = autoload_of(call)
    return await _relayed(pool, pool.find(name), call, autoload if works or autoload is not None else False, works)


async def _of_any(pool: Pool, call: Call) -> Answer:
    """Let the model answer that keeps what the path names: clients do not say which one that is."""
    for model in tuple(pool.models.values()):
        if model.status == "loaded":
            answer = await _relayed(pool, model, call, autoload=False, counts=False)
            if answer.status != 404:
                return answer
            answer.close()
    raise Problem(404, "no model that is loaded keeps this response", code="response_not_found")


async def _relayed(pool: Pool, model: ManagedModel, call: Call, autoload: bool | None, counts: bool) -> Relayed:
    texts: dict[str, Any] = call.scope["llama_cffi"].setdefault("texts", {})
    texts["model"] = model.id
    lease = await pool.lease(model, autoload=autoload, counts=counts)
    try:
        method: str = call.scope["method"]
        upstream = await Upstream.open(lease.process.path, method, _target(call), _headers(call), call.data)
    except BaseException as error:
        try:
            if isinstance(error, UpstreamGone):
                raise await died(lease) from None
        finally:
            lease.release()
        raise
    return Relayed(upstream, lease, call)


def relay_handler(pool: Pool, original: Handler) -> Handler:
    """Return a handler that relays requests of the form that another one takes."""
    form = form_of(original)

    async def handler(call: Call) -> Answer:
        return await relay(pool, call)

    return takes(list_as=form.list_as, nothing=form.nothing, form=form.form)(handler)


def _target(call: Call) -> bytes:
    path = quote(call.scope["path"], safe="/:@!$&'()*+,;=-._~")
    query: bytes = call.scope["query_string"]
    return path.encode("ascii") + (b"?" + query if query else b"")


def _headers(call: Call) -> Iterator[tuple[bytes, bytes]]:
    for name, value in call.scope["headers"]:
        if name.decode("latin-1") not in _OF_THE_PARENT:
            yield name, value
    yield b"x-request-id", call.request_id.encode("ascii")


__all__ = ["Relayed", "autoload_of", "died", "name_of", "relay", "relay_handler"]
