"""Media fetched from hosts that behave badly: limits hold, and no connection goes where it must not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import pytest

pytest.importorskip("httptools", reason="needs the extra llama-cffi[server]")

from llama_cffi.server import media_fetch
from llama_cffi.server.media_fetch import FetchError, MediaFetcher
from llama_cffi.server.media_hosts import HostRefused, MediaHosts
from tests.support.certificates import certificate

DATA = b"\x89PNG data" * 100
PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""
PUBLIC = ip_address("93.184.216.34")

Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = DATA, *, status: str = "200 OK", length: int | None = None, headers: str = "") -> bytes:
    n = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {n}\r\n{headers}\r\n".encode() + body


class Host:
    """A server of this machine, and what was asked of it."""

    def __init__(self, reply: Reply | bytes, tls: ssl.SSLContext | None = None) -> None:
        self._reply, self._tls = reply, tls
        self.requests: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Host:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            if isinstance(self._reply, bytes):
                writer.write(self._reply)
                await writer.drain()
            else:
                await self._reply(head, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @property
    def entry(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/a.png") -> str:
        return f"http://{self.entry}{path}"


def fetch(reply: Reply | bytes, *, path: str = "/a.png", seconds: float = 10.0, max_bytes: int = 1 << 20) -> Any:
    """What a fetcher returns for a URL of a host with that reply."""

    async def main() -> Any:
        async with Host(reply) as host:
            fetcher = MediaFetcher(MediaHosts([host.entry]), max_bytes=max_bytes, seconds=seconds)
            (found,) = (await asyncio.wait_for(fetcher.fetch_all([host.url(path)]), PATIENCE)).values()
            assert len(host.requests) <= 4
            return found

    return asyncio.run(main())


def refused(found: object, words: str, kind: type[Exception] = FetchError) -> None:
    assert isinstance(found, kind), found
    assert words in str(found)


def test_what_is_there_is_fetched_with_a_plain_request() -> None:
    async def main() -> None:
        async with Host(answer()) as host:
            fetcher = MediaFetcher(MediaHosts([host.entry]), max_bytes=1 << 20, seconds=10)
            url = host.url("/a%20b.png?c=d")
            assert await fetcher.fetch_all([url, url]) == {url: DATA}
            (request,) = host.requests
            lines = request.decode().split("\r\n")
            assert lines[:2] == ["GET /a%20b.png?c=d HTTP/1.1", f"Host: {host.entry}"]
            names = {line.partition(":")[0].lower() for line in lines[2:] if line}
            assert names == {"user-agent", "accept", "accept-encoding", "connection"}

    asyncio.run(main())


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n384\r\n" + DATA + b"\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + DATA,
        answer(headers="Content-Type: text/html\r\nContent-Encoding: identity\r\n"),
        answer() + b"more than was said",
    ],
)
def test_other_forms_of_an_answer(reply: bytes) -> None:
    assert fetch(reply) == DATA


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (answer(status="404 Not Found"), "status 404"),
        (answer(status="204 No Content"), "status 204"),
        (answer(status="206 Partial Content"), "status 206"),
        (answer(status="304 Not Modified"), "status 304"),
        (answer(length=2000), "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n384\r\n" + DATA, "the connection ended"),
        (b"", "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nContent-Len", "the connection ended"),
        (b"not HTTP at all\r\n\r\n", "could not be fetched"),
        (answer(headers="Content-Length: 3\r\n"), "could not be fetched"),
        (answer(headers="Content-Encoding: gzip\r\n"), "compressed"),
        (answer(headers="Content-Encoding: br\r\n"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "headers"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 20_000, "headers"),
        (answer(length=1 << 40), "may take 1,048,576 bytes"),
        (answer(length=(1 << 20) + 1), "may take 1,048,576 bytes"),
        (answer(b"a" * ((1 << 20) + 1)), "may take 1,048,576 bytes"),
    ],
)
def test_answers_that_are_none(reply: bytes, words: str) -> None:
    refused(fetch(reply), words)


def test_a_body_without_an_end_and_one_that_drips_come_to_one() -> None:
    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    async def drips(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", length=1000))
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def drips_headers(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: a\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def silent(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(PATIENCE)

    refused(fetch(endless), "may take 1,048,576 bytes")
    for reply in (drips, drips_headers, silent):
        refused(fetch(reply, seconds=0.3), "within 0.3 seconds")


def test_all_media_of_a_request_share_its_bytes() -> None:
    async def main() -> None:
        async with Host(answer()) as host:
            fetcher = MediaFetcher(MediaHosts([host.entry]), max_bytes=2500, seconds=10)
            found = await fetcher.fetch_all([host.url(f"/{i}") for i in range(4)])
            assert sum(isinstance(one, bytes) for one in found.values()) == 2
            refused(next(one for one in found.values() if not isinstance(one, bytes)), "may take 2,500 bytes")
            many = await fetcher.fetch_all([host.url(f"/{i}") for i in range(33)])
            assert len(many) == 33
            refused(many[host.url("/0")], "32 URLs")

    asyncio.run(main())


def test_no_more_connections_than_allowed_are_open_at_once() -> None:
    async def main() -> None:
        running = most = 0

        async def slow(head: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            writer.write(answer())

        async with Host(slow) as host:
            fetcher = MediaFetcher(MediaHosts([host.entry]), max_bytes=1 << 20, seconds=10)
            found = await fetcher.fetch_all([host.url(f"/{i}") for i in range(30)])
            assert all(one == DATA for one in found.values())
            assert most <= media_fetch._AT_ONCE

    asyncio.run(main())


def test_a_request_that_is_cancelled_closes_its_connections() -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def waits(head: bytes, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(b"HTTP/1.1 200 OK\r\nX: a")
                    await writer.drain()
                    await asyncio.sleep(0.005)
            finally:
                closed.set()

        async with Host(waits) as host:
            fetcher = MediaFetcher(MediaHosts([host.entry]), max_bytes=1 << 20, seconds=10)
            task = asyncio.ensure_future(fetcher.fetch_all([host.url()]))
            while not host.requests:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(closed.wait(), PATIENCE)

    asyncio.run(main())


def test_redirects_lead_to_where_a_url_could() -> None:
    def to(location: str) -> bytes:
        return answer(b"", status="302 Found", headers=f"Location: {location}\r\n")

    async def around(head: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        writer.write({b"/a.png": to("b.png"), b"/b.png": to("/c/d.png"), b"/c/d.png": answer()}.get(path, b""))

    assert fetch(around) == DATA
    refused(fetch(to("/a.png")), "redirected more than 3 times")
    for location in (
        "http://127.0.0.1:1/", "http://10.0.0.1/", "http://169.254.169.254/latest/", "http://[::1]/", "//a.example/",
        "file:///etc/passwd", "http://user:word@a.example/", "ftp://a.example/",
    ):  # fmt: skip
        refused(fetch(to(location)), "", HostRefused)


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    opened: list[tuple[str, int]] = []
    connect = asyncio.open_connection

    async def resolve(host: str, port: int) -> list[Any]:
        asked.append(host)
        # A second answer of DNS would lead elsewhere.
        return [PUBLIC] if len(asked) == 1 else [ip_address("127.0.0.1")]

    async def main() -> None:
        async with Host(answer()) as host:

            async def open_connection(address: str, port: int, **options: Any) -> Any:
                opened.append((address, port))
                return await connect("127.0.0.1", host.port, **options)

            monkeypatch.setattr(asyncio, "open_connection", open_connection)
            fetcher = MediaFetcher(MediaHosts(["a.example"]), max_bytes=1 << 20, seconds=10, resolve=resolve)
            assert await fetcher.fetch_all(["http://A.example./x"]) == {"http://A.example./x": DATA}
            assert (asked, opened) == (["a.example"], [(str(PUBLIC), 80)])
            (found,) = (await fetcher.fetch_all(["http://a.example/x"])).values()
            refused(found, "not public", HostRefused)
            assert len(opened) == 1

    asyncio.run(main())


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "fe80::1"])
def test_one_address_that_is_not_public_is_enough(address: str) -> None:
    async def resolve(host: str, port: int) -> list[Any]:
        return [PUBLIC, ip_address(address)]

    async def main() -> Any:
        fetcher = MediaFetcher(MediaHosts(["*"]), max_bytes=1 << 20, seconds=10, resolve=resolve)
        (found,) = (await fetcher.fetch_all(["http://a.example/"])).values()
        return found

    refused(asyncio.run(main()), "not public", HostRefused)


def test_names_that_the_system_takes_for_addresses_of_this_machine() -> None:
    async def main() -> list[Any]:
        fetcher = MediaFetcher(MediaHosts(["*"]), max_bytes=1 << 20, seconds=10)
        urls = ["http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://localhost/", "http://0/"]
        return list((await fetcher.fetch_all(urls)).values())

    for found in asyncio.run(main()):
        assert isinstance(found, (FetchError, HostRefused)), found


def test_certificates_are_those_of_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    connect = asyncio.open_connection

    async def resolve(host: str, port: int) -> list[Any]:
        return [PUBLIC]

    cert, key = certificate(tmp_path, "a.example")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))

    async def main() -> list[Any]:
        async with Host(answer(), serving) as host:

            async def open_connection(address: str, port: int, **options: Any) -> Any:
                return await connect("127.0.0.1", host.port, **options)

            monkeypatch.setattr(asyncio, "open_connection", open_connection)
            found: list[Any] = []
            for tls, name in ((trusting, "a.example"), (trusting, "b.example"), (None, "a.example")):
                fetcher = MediaFetcher(MediaHosts(["*"]), max_bytes=1 << 20, seconds=10, resolve=resolve, tls=tls)
                found += (await fetcher.fetch_all([f"https://{name}/x"])).values()
            return found

    right, other, untrusted = asyncio.run(main())
    assert right == DATA
    refused(other, "not secure")
    refused(untrusted, "not secure")
