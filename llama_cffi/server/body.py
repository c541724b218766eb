"""The body of a request: read with limits of size and time, and parsed as JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from llama_cffi.server.form import parse_form
from llama_cffi.server.nesting import next_level
from llama_cffi.server.problem import Problem

if TYPE_CHECKING:
    from starlette.types import Receive

MAX_DEPTH = 64
"""Objects and lists inside of each other."""

LONG = 1 << 16
"""Bytes from which on a body is parsed on another thread, so that streams go on meanwhile."""
_SECONDS, _BYTES_PER_SECOND = 30.0, 64_000
"""A body may take this long, and as long as its size takes at this speed."""


class Disconnected(Exception):
    """The client has gone."""


async def read_body(receive: Receive, headers: dict[str, str], limit: int) -> bytes:
    """Return the body; :class:`Problem` for one that is too large, compressed or too slow."""
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Problem(415, "a compressed body is not accepted", code="unsupported_encoding")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    loop = asyncio.get_running_loop()
    start, parts, size = loop.time(), list[bytes](), 0
    while True:
        left = start + _SECONDS + size / _BYTES_PER_SECOND - loop.time()
        try:
            message = await asyncio.wait_for(receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            raise Problem(
                408,
                "the body of the request did not come in time",
                code="body_timeout",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body has more than {limit} bytes", code="body_too_large", headers={"Connection": "close"})


class BodyForm(NamedTuple):
    """What a body must be. The default is a JSON object."""

    list_as: str = ""
    """The field that a list becomes, which the body must be then; "" is for objects."""
    nothing: bool = False
    """Whether there may be no body, which is an empty object."""
    form: bool = False
    """Whether it is a form with files instead."""


async def parse_body(data: bytes, form: BodyForm, headers: dict[str, str]) -> dict[str, Any]:
    """Return a body as a JSON object; fields that are null are left out: they were not given."""
    if form.form:
        return await asyncio.to_thread(parse_form, data, headers.get("content-type", ""))
    if len(data) < LONG:
        return _parsed(data, form)
    return await asyncio.to_thread(_parsed, data, form)


def _parsed(data: bytes, form: BodyForm) -> dict[str, Any]:
    if not data and form.nothing:
        return {}
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(value, list if form.list_as else dict):
        kind = "list" if form.list_as else "object"
        raise Problem(400, f"the body must be a JSON {kind}", code="invalid_json")
    if form.list_as:
        value = {form.list_as: value}
    check_depth(value)
    return {key: one for key, one in value.items() if one is not None}


def check_depth(value: Any) -> None:
    """Raise :class:`Problem` for JSON with more objects and lists inside of each other than :data:`MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = next_level(level)
        if not level:
            return
    raise Problem(400, f"the body is nested more than {MAX_DEPTH} deep", code="invalid_json")


__all__ = ["LONG", "MAX_DEPTH", "Disconnected", "check_depth", "parse_body", "read_body"]
