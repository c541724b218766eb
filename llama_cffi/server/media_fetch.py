"""Media of other hosts, fetched for a request: from allowed hosts, with limits of size and time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import httptools

from llama_cffi.server.media_hosts import Address, HostRefused, MediaHosts, Target

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Returns the addresses of a host and port."""

MAX_URLS = 32
"""Different URLs of one request."""
_AT_ONCE = 16
"""Fetches of the server at once; further ones wait, within their time."""
_REDIRECTS = 3
_ADDRESSES = 3
"""Addresses of a host that are tried, one after another."""
_HEAD_BYTES = 32 << 10
_CHUNK = 1 << 16
_MOVED = (301, 302, 303, 307, 308)


class FetchError(Exception):
    """A medium could not be fetched; the text says why."""


class MediaFetcher:
    """Fetches media from the hosts of a list.

    A name is resolved once and the connection goes to that address, so that another answer of DNS changes nothing.
    Redirects lead only to where a URL could. ``max_bytes`` is for all media of one request, ``seconds`` for each.
    ``resolve`` and ``tls`` are those of the system by default.
    """

    def __init__(
        self,
        hosts: MediaHosts,
        *,
        max_bytes: int,
        seconds: float,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts = hosts
        self._max_bytes, self._seconds = max_bytes, seconds
        self._resolve = resolve if resolve is not None else _resolve
        self._tls = tls
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch_all(self, urls: Iterable[str]) -> dict[str, bytes | Exception]:
        """Return the data of each URL, or why there is none: :class:`FetchError` or :class:`HostRefused`."""
        wanted = list(dict.fromkeys(urls))
        if len(wanted) > MAX_URLS:
            error = FetchError(f"a request may name {MAX_URLS} URLs of media, not {len(wanted)}")
            return dict.fromkeys(wanted, error)
        budget = _Budget(self._max_bytes)
        found = await asyncio.gather(*(self._fetch(url, budget) for url in wanted))
        return dict(zip(wanted, found, strict=True))

    async def _fetch(self, url: str, budget: _Budget) -> bytes | Exception:
        try:
            return await asyncio.wait_for(self._within_time(url, budget), self._seconds)
        except asyncio.TimeoutError:
            return FetchError(f"it did not come within {self._seconds:g} seconds")
        except (FetchError, HostRefused) as error:
            return error
        except ssl.SSLError as error:
            return FetchError(f"the connection is not secure: {getattr(error, 'verify_message', '') or error.reason}")
        except (OSError, httptools.HttpParserError) as error:
            return FetchError(f"it could not be fetched: {type(error).__name__}")

    async def _within_time(self, url: str, budget: _Budget) -> bytes:
        target = self.hosts.target(url)
        async with self._slots:
            for _ in range(_REDIRECTS + 1):
                answer = await self._ask(target, budget)
                if answer.location is None:
                    return answer.body()
                target = self._next(target, answer.location)
        raise FetchError(f"it was redirected more than {_REDIRECTS} times")

    def _next(self, target: Target, location: str) -> Target:
        from urllib.parse import urljoin

        try:
            following = self.hosts.target(urljoin(f"{target.scheme}://{target.authority}{target.path}", location))
        except ValueError:
            raise FetchError("it was redirected to what is no URL") from None
        if target.scheme == "https" != following.scheme:
            raise HostRefused("it was redirected from https to http")
        return following

    async def _ask(self, target: Target, budget: _Budget) -> _Answer:
        reader, writer = await self._connect(target)
        try:
            lines = (
                f"GET {target.path} HTTP/1.1",
                f"Host: {target.authority}",
                "User-Agent: llama-cffi",
                "Accept: image/*, audio/*",
                "Accept-Encoding: identity",
                "Connection: close",
            )
            writer.write("\r\n".join((*lines, "", "")).encode("ascii"))
            await writer.drain()
            answer = _Answer(budget)
            while not answer.complete:
                data = await reader.read(_CHUNK)
                if not data:
                    answer.end()
                    break
                answer.feed(data)
            return answer
        finally:
            writer.transport.abort()

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        addresses = [target.address] if target.address is not None else await self._resolve(target.host, target.port)
        if not addresses:
            raise FetchError("the host has no address")
        for address in addresses:  # all of them: one that is not public is no slip
            self.hosts.check_address(target, address)
        tls: dict[str, Any] = {}
        if target.scheme == "https":
            if self._tls is None:
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            tls = {"ssl": self._tls, "server_hostname": target.host}
        last: OSError | None = None
        for address in addresses[:_ADDRESSES]:
            try:
                return await asyncio.open_connection(str(address), target.port, limit=_CHUNK, **tls)
            except ssl.SSLError:
                raise
            except OSError as error:
                last = error
        raise last if last is not None else FetchError("the host has no address")


class _Budget:
    """The bytes that the media of a request may still take."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def take(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise FetchError(f"the media of one request may take {self.limit:,} bytes together")


class _Answer:
    """An answer as it is read. Its status, headers and length are checked before its body is kept."""

    def __init__(self, budget: _Budget) -> None:
        self.complete = False
        self.location: str | None = None
        self._budget = budget
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._n_head = 0
        self._has_head = False

    def feed(self, data: bytes) -> None:
        """Read bytes. Raises :class:`FetchError`."""
        if not self._has_head:
            self._n_head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise FetchError("the host wants to speak another protocol") from None
        except httptools.HttpParserCallbackError as error:
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, FetchError) else FetchError("the answer cannot be read") from None
        except httptools.HttpParserError:
            if not self.complete:  # what follows the answer is none of it
                raise
        if not self._has_head and self._n_head > _HEAD_BYTES:
            raise FetchError(f"the headers of the answer have more than {_HEAD_BYTES:,} bytes")

    def end(self) -> None:
        """Note that the connection has ended, which is the end of a body without a length."""
        framed = "content-length" in self._headers or "chunked" in self._headers.get("transfer-encoding", "").lower()
        if not self._has_head or framed:
            raise FetchError("the connection ended before the answer did")
        self.complete = True

    def body(self) -> bytes:
        """Return the data."""
        return b"".join(self._parts)

    # -- what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the end of the head."""
        self._has_head = True
        status, headers = self._parser.get_status_code(), self._headers
        if status in _MOVED and headers.get("location"):
            self.location, self.complete = headers["location"], True
            return
        if status != 200:
            raise FetchError(f"the host answered with status {status}")
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchError("the host sent a compressed body, which was not asked for")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._budget.left:
            self._budget.take(int(length))

    def on_body(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self.location is None:
            self._budget.take(len(data))
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """Take the end of the answer."""
        self.complete = True


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError:
        raise FetchError("the name of the host is not known") from None
    return [
        ip_address(str(one[4][0]).partition("%")[0]) for one in found if one[0] in (socket.AF_INET, socket.AF_INET6)
    ]


__all__ = ["MAX_URLS", "FetchError", "MediaFetcher", "Resolve"]
