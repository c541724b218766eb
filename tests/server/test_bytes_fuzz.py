"""Bytes made by chance from requests: every connection ends, none by a failure, and a good request works after."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest.importorskip("httptools", reason="needs the extra llama-cffi[server]")

AT_ONCE = 16


def good(chance: random.Random) -> bytes:
    """A request that the server answers."""
    body = json.dumps({"prompt": "Once", "max_tokens": 2, "stream": chance.random() < 0.3}).encode()
    kind = chance.randrange(4)
    if kind == 0:
        return b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    if kind == 1:
        parts = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 9]), body[i : i + 9]) for i in range(0, len(body), 9))
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    if kind == 2:
        head += b"Expect: 100-continue\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"\xff",
    b"Transfer-Encoding: chunked\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"HTTP/1.0", b"HTTP/2.0",
    b"Content-Encoding: gzip\r\n", b"GET / HTTP/1.1\r\n", b"%", b"?", b"#", b"ffffffffffffffff\r\n", b"X: \r\n y\r\n",
    b"Host: evil\r\n", b"OPTIONS * HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"{", b'"', b"99999999999999999999",
)  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randrange(1, 4)):
        i, j = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:i]
        elif kind == 1:
            data = data[:i] + chance.choice(PIECES) + data[i:]
        elif kind == 2:
            data = data[:i] + data[min(j, i + 12) :]
        elif kind == 3:
            data = data[:i] + bytes([chance.randrange(256)]) + data[i + 1 :]
        else:
            data += data[i:j]
        data = data or b"\r\n"
    return data


def search(server: Running, ask: Callable[..., Any], seed: int, n: int) -> None:
    chance = random.Random(seed)
    for first in range(0, n, AT_ONCE):
        sent = [mutated(good(chance), chance) for _ in range(AT_ONCE)]
        with ExitStack() as stack:
            socks = [
                stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)))
                for _ in sent
            ]
            for sock, data in zip(socks, sent, strict=True):
                sock.sendall(data)
            for i, (sock, data) in enumerate(zip(socks, sent, strict=True)):
                found = b""
                try:
                    while part := sock.recv(65536):
                        found += part
                except ConnectionError:  # it was ended with something unread
                    pass
                except TimeoutError:
                    raise AssertionError(f"seed {seed}, {first + i}: it does not end: {data!r}, {found!r}") from None
                statuses = [int(one) for one in re.findall(rb"HTTP/1\.1 (\d+)", found)]
                assert not found or found.startswith(b"HTTP/1.1 "), (seed, first + i, data, found)
                assert all(one < 500 for one in statuses), (seed, first + i, data, found)
        server.until_idle()
        assert ask("/v1/completions", {"prompt": "Once", "max_tokens": 2}).status_code == 200


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch, server: Running) -> None:
    from llama_cffi.server import body
    from llama_cffi.server.connection import Connection

    for name in ("head_seconds", "rest_seconds", "stall_seconds", "idle_seconds"):
        monkeypatch.setattr(Connection, name, 0.1)
    monkeypatch.setattr(body, "_SECONDS", 0.1)


def test_some_bytes(server: Running, ask: Callable[..., Any]) -> None:
    search(server, ask, 0, 3 * AT_ONCE)


@pytest.mark.fuzz
def test_many_bytes(server: Running, ask: Callable[..., Any]) -> None:
    for seed in range(1, 41):
        print("seed", seed)
        search(server, ask, seed, 10 * AT_ONCE)
