"""A request to the process of a model, over its socket file: one connection for each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import httptools

_CHUNK = 1 << 16
"""Bytes that are read at once; a connection holds no more than some of these, as long as the client does not read."""


class UpstreamGone(Exception):
    """The process closed the connection before its answer had an end."""


class Upstream:
    """The answer to one request; :meth:`open` asks it. :meth:`close` ends it, which the process sees as a client that
    has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, has_body: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """By their names in lower case."""
        self._reader, self._writer = reader, writer
        self._has_body = has_body
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._head = self._complete = False

    @classmethod
    async def open(
        cls, path: Path, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> Upstream:
        """Send a request and return its answer, of which the head is there.

        Raises :class:`UpstreamGone` where the process has ended.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=_CHUNK)
        except OSError as error:
            raise UpstreamGone from error
        found = cls(reader, writer, has_body=method != "HEAD")
        try:
            lines = [method.encode() + b" " + target + b" HTTP/1.1", b"host: localhost", b"connection: close"]
            lines += [name + b": " + value for name, value in headers]
            if body or method == "POST":
                lines.append(b"content-length: %d" % len(body))
            writer.write(b"\r\n".join((*lines, b"", b"")) + body)
            with suppress(ConnectionError):  # what was refused may be answered before all of it was sent
                await writer.drain()
            await found._read_head()
        except BaseException:
            found.close()
            raise
        return found

    async def read(self) -> bytes | None:
        """Return what is there of the body, at least a byte of it; None at its end.

        Raises :class:`UpstreamGone` for a body that ends too soon.
        """
        if not self._has_body:
            return None
        while not self._parts:
            if self._complete:
                return None
            await self._more()
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """End it, whether it is complete or not. Idempotent."""
        self._writer.transport.abort()

    async def _read_head(self) -> None:
        while not self._head:
            await self._more()

    async def _more(self) -> None:
        try:
            data = await self._reader.read(_CHUNK)
            if not data:
                raise UpstreamGone
            self._parser.feed_data(data)
        except (ConnectionError, httptools.HttpParserError) as error:
            raise UpstreamGone from error

    # -- what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the end of the head."""
        self.status, self._head = self._parser.get_status_code(), True

    def on_body(self, data: bytes) -> None:
        """Take bytes of the body."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Take the end of the answer."""
        self._complete = True


__all__ = ["Upstream", "UpstreamGone"]
