"""Servers that lie about ranges, lengths and versions, redirect in circles, hang, or send what was not asked for."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cffi import errors
from llama_cffi.hub import pull_address, web
from llama_cffi.hub import transfer as transfers
from llama_cffi.hub.ranges import RangeFile
from llama_cffi.hub.web import WebFile

CONTENT = b"GGUF" + random.Random(5).randbytes(4000)
OTHER = b"GGUF" + random.Random(6).randbytes(3000)
TIMEOUT = 0.2
SECONDS = 20.0
"""For one case, of which the longest is that every request of five hangs."""


class Liar:
    """A server on a socket. ``answer`` gets the request's headers and returns the bytes that are sent; None hangs."""

    def __init__(self) -> None:
        self.answer: Callable[[str], bytes | None] = lambda _: b""
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self._ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client:
            client.settimeout(SECONDS)
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    block = client.recv(4096)
                    if not block:
                        return
                    data += block
                answer = self.answer(data.decode("latin-1"))
                if answer is None:
                    client.recv(1)  # until the other side has enough
                else:
                    client.sendall(answer)
            except OSError:
                return

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(scope="module")
def serving() -> Iterator[Liar]:
    liar = Liar()
    yield liar
    liar.close()


@pytest.fixture
def liar(serving: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Liar:
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(transfers, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(web, "TIMEOUT", TIMEOUT)
    return serving


def message(status: str, body: bytes, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode("latin-1") + body


def asked_from(request: str) -> int | None:
    found = re.search(r"^range: bytes=(\d+)-", request, re.IGNORECASE | re.MULTILINE)
    return int(found[1]) if found else None


def asked_to(request: str) -> int:
    found = re.search(r"^range: bytes=\d+-(\d+)", request, re.IGNORECASE | re.MULTILINE)
    return int(found[1]) + 1 if found else len(CONTENT)


class Random:
    """The ways of one seed. What it says is a whole file is in ``wholes``."""

    def __init__(self, seed: int, url: str) -> None:
        self._draw = random.Random(f"liar {seed}")
        self._url = url
        self.wholes = {CONTENT}
        self._ways = self._draw.sample(
            [self.honest, self.part, self.wrong_part, self.short, self.long, self.no_length, self.other, self.zipped,
             self.circle, self.numbers, self.nothing, self.refused, self.unasked, self.chunks, self.hangs],
            self._draw.randrange(1, 6),
        )  # fmt: skip

    def __call__(self, request: str) -> bytes | None:
        return self._draw.choice(self._ways)(request)

    def tag(self, content: bytes = CONTENT) -> str:
        return self._draw.choice([f'ETag: "{len(content)}"', f'ETag: W/"{len(content)}"', "X-None: 1"])

    def honest(self, request: str) -> bytes:
        start = asked_from(request)
        if start is None or start >= len(CONTENT):
            return message("200 OK", CONTENT, f"Content-Length: {len(CONTENT)}", self.tag())
        return self.part(request)

    def part(self, request: str) -> bytes:
        start = asked_from(request) or 0
        body = CONTENT[start : start + self._draw.randrange(1, 5000)]
        span = f"Content-Range: bytes {start}-{start + max(len(body), 1) - 1}/{len(CONTENT)}"
        return message("206 Partial", body, f"Content-Length: {len(body)}", span, self.tag())

    def wrong_part(self, request: str) -> bytes:
        a, b, c = (self._draw.choice([0, 1, 17, len(CONTENT) - 1, len(CONTENT), 10**30]) for _ in range(3))
        span = self._draw.choice([f"bytes {a}-{b}/{c}", f"bytes {a}-{b}/*", "bytes */5", "lines 1-2/3", "", "9" * 5000])
        return message("206 Partial", CONTENT[:100], f"Content-Range: {span}", "Content-Length: 100")

    def short(self, request: str) -> bytes:
        return message("200 OK", CONTENT[: self._draw.randrange(4000)], f"Content-Length: {len(CONTENT)}", self.tag())

    def long(self, request: str) -> bytes:
        n = self._draw.randrange(4, 4000)
        self.wholes.add(CONTENT[:n])  # nothing tells that there is more
        return message("200 OK", CONTENT, f"Content-Length: {n}", self.tag(CONTENT[:n]))

    def no_length(self, request: str) -> bytes:
        n = self._draw.choice([len(CONTENT), 100])
        self.wholes.add(CONTENT[:n])
        return message("200 OK", CONTENT[:n])

    def other(self, request: str) -> bytes:
        self.wholes.add(OTHER)
        return message("200 OK", OTHER, f"Content-Length: {len(OTHER)}", self.tag(OTHER))

    def zipped(self, request: str) -> bytes:
        import gzip

        body = gzip.compress(CONTENT)
        return message("200 OK", body, f"Content-Length: {len(body)}", "Content-Encoding: gzip", self.tag())

    def circle(self, request: str) -> bytes:
        return message("302 Found", b"x" * 100, f"Location: {self._url}/{self._draw.randrange(3)}.gguf")

    def numbers(self, request: str) -> bytes:
        length = self._draw.choice(["-1", "9" * 5000, "1e3", "٣", "", "0x10", "5, 5"])
        return message("200 OK", CONTENT, f"Content-Length: {length}".encode().decode("latin-1"), self.tag())

    def nothing(self, request: str) -> bytes:
        return self._draw.choice([b"", b"HTTP", b"\0" * 50, b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 999 Odd\r\n\r\n"])

    def refused(self, request: str) -> bytes:
        status = self._draw.choice(["304 Not Modified", "416 Range", "500 Oh", "403 No", "404 None", "204 Empty"])
        return message(status, b"", "Content-Length: 0", self.tag())

    def unasked(self, request: str) -> bytes:
        start = self._draw.randrange(len(CONTENT))
        span = f"Content-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        return message("206 Partial", CONTENT[start:], f"Content-Length: {len(CONTENT) - start}", span, self.tag())

    def chunks(self, request: str) -> bytes:
        end = self._draw.choice([b"\r\n0\r\n\r\n", b"\r\n0", b"", b"\r\nzz\r\n"])
        body = f"{len(CONTENT):x}\r\n".encode() + CONTENT + end
        return message("200 OK", body, "Transfer-Encoding: chunked", self.tag())

    def hangs(self, request: str) -> bytes | None:
        return None


def check(liar: Liar, seed: int) -> bool:
    """Whether a file came of it."""
    liar.answer = ways = Random(seed, liar.url)
    address = f"{liar.url}/{seed}.gguf"
    began, came = time.monotonic(), False
    for _ in range(2):
        try:
            path = pull_address(address)
        except errors.HubError:
            pass
        else:
            assert path.read_bytes() in ways.wholes, seed
            came = True
    try:
        with RangeFile(WebFile.parse(address), limit=10_000) as file:
            data = file.read(1000) + file.read(5000)
    except errors.HubError:
        pass
    else:
        assert any(whole.startswith(data) for whole in ways.wholes), seed
    assert time.monotonic() - began < SECONDS, seed
    return came


def test_servers_that_lie(liar: Liar) -> None:
    found = [check(liar, seed) for seed in range(40) if not has_hangs(seed)]
    assert 5 < sum(found) < len(found)


def has_hangs(seed: int) -> bool:
    return any(way.__name__ == "hangs" for way in Random(seed, "")._ways)


@pytest.mark.fuzz
def test_many_servers_that_lie(liar: Liar) -> None:
    end = time.monotonic() + 60
    first = random.SystemRandom().randrange(10**9)
    print(f"from seed {first}")
    seed = first
    while time.monotonic() < end:
        check(liar, seed)
        seed += 1
    print(f"{seed - first} seeds")


def test_a_server_that_hangs(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_ATTEMPTS", 2)
    liar.answer = lambda request: None
    with pytest.raises(errors.HubConnectionError, match="timed out"):
        pull_address(f"{liar.url}/m.gguf")
    # In the middle of a file: what came is kept.
    half = message("200 OK", CONTENT[:2000], f"Content-Length: {len(CONTENT)}", 'ETag: "a"')
    answers: list[bytes | None] = [half, None, None]
    liar.answer = lambda request: answers.pop(0)
    with pytest.raises(errors.HubConnectionError):
        pull_address(f"{liar.url}/m.gguf")
    span = f"Content-Range: bytes 2000-{len(CONTENT) - 1}/{len(CONTENT)}"
    liar.answer = lambda request: message("206 Partial", CONTENT[2000:], span, 'ETag: "a"')
    assert pull_address(f"{liar.url}/m.gguf").read_bytes() == CONTENT


def test_a_server_that_only_promises_an_answer(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_ATTEMPTS", 1)
    promise = b"HTTP/1.1 100 Continue\r\n\r\n"
    liar.answer = lambda request: promise * 3 + message("200 OK", CONTENT, f"Content-Length: {len(CONTENT)}")
    assert pull_address(f"{liar.url}/m.gguf").read_bytes() == CONTENT
    liar.answer = lambda request: promise * 100
    with pytest.raises(errors.HubConnectionError, match="keeps saying that its answer will come"):
        pull_address(f"{liar.url}/other.gguf")


def test_what_comes_with_a_redirection_is_not_read(liar: Liar) -> None:
    """It may have no end; Python's own handler reads all of it."""
    headers = f"HTTP/1.1 302 Found\r\nLocation: {liar.url}/real.gguf\r\nContent-Length: 999999999\r\n\r\n".encode()

    def answer(request: str) -> bytes:
        if request.startswith("GET /real.gguf"):
            return message("200 OK", CONTENT, f"Content-Length: {len(CONTENT)}")
        return headers + bytes(1000)

    liar.answer = answer
    assert pull_address(f"{liar.url}/m.gguf").read_bytes() == CONTENT


def test_a_header_that_comes_in_small_parts(liar: Liar) -> None:
    def answer(request: str) -> bytes:
        start = asked_from(request) or 0
        body = CONTENT[start : min(start + 700, asked_to(request))]
        span = f"Content-Range: bytes {start}-{start + len(body) - 1}/{len(CONTENT)}"
        return message("206 Partial", body, f"Content-Length: {len(body)}", span, 'ETag: "a"')

    liar.answer = answer
    with RangeFile(WebFile.parse(f"{liar.url}/m.gguf")) as file:
        assert file.read(2000) == CONTENT[:2000]
        assert file.read(5000) == CONTENT[2000:]
        assert file.read(5000) == b""
