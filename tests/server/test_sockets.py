"""What clients do that are no good clients: they leave, send half of a request, or bytes that are no request."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

TURNS = [{"role": "user", "content": "Once upon a time"}]
ENDLESS = {"prompt": "Once upon a time", "ignore_eos": True, "temperature": 0}


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def request(body: Any, path: str = "/v1/completions", method: str = "POST", *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (part := sock.recv(65536))
        assert part, f"closed after {data!r}"
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += sock.recv(65536)
    return int(first.split()[1]), headers, body


def receive(sock: socket.socket, wanted: bytes) -> bytes:
    """Read until something has come: head and body need not come together."""
    data = b""
    while wanted not in data:
        data += (part := sock.recv(65536))
        assert part, f"closed after {data!r}"
    return data


@pytest.fixture(autouse=True)
def still_good(server: Running) -> Iterator[None]:
    """After each test nothing is left over, and a good request works."""
    yield
    server.until_idle()
    with closing(connect(server)) as sock:
        sock.sendall(request({"prompt": "Once", "max_tokens": 2}))
        assert answer(sock)[0] == 200
    server.until_idle()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "Once"}),
        ("/v1/messages", {"messages": TURNS, "max_tokens": 1_000_000}),
        ("/v1/responses", {"input": TURNS}),
    ],
)
def test_who_leaves_ends_the_request(server: Running, path: str, asked: Any, stream: bool) -> None:
    before = server.until_idle().requests.get("cancelled", 0)
    with closing(connect(server)) as sock:
        sock.sendall(request({**asked, "ignore_eos": True, "temperature": 0, "stream": stream}, path))
        server.until(lambda stats: stats.running == 1)
        if stream:
            receive(sock, b"data: ")
    assert server.until_idle().requests["cancelled"] == before + 1


def test_who_leaves_the_queue_is_not_computed(server: Running) -> None:
    running = [connect(server) for _ in range(2)]
    for sock in running:
        sock.sendall(request({**ENDLESS, "stream": True}))
    server.until(lambda stats: stats.running == 2)
    waiting = connect(server)
    waiting.sendall(request(ENDLESS))
    server.until(lambda stats: stats.waiting == 1)
    waiting.close()
    stats = server.until(lambda stats: stats.waiting == 0)
    assert stats.running == 2
    for sock in running:
        sock.close()


def test_who_leaves_at_once(server: Running) -> None:
    prompt = "The cat sat on the mat. " * 100
    for stream in (True, False):
        with closing(connect(server)) as sock:
            sock.sendall(request({**ENDLESS, "prompt": prompt, "stream": stream}))


def test_a_full_queue_refuses(server: Running) -> None:
    socks = [connect(server) for _ in range(6)]
    for i, sock in enumerate(socks):
        sock.sendall(request({**ENDLESS, "stream": True}))
        server.until(lambda stats, n=i + 1: stats.running + stats.waiting == n)  # type: ignore[misc]
    with closing(connect(server)) as sock:
        sock.sendall(request({**ENDLESS, "stream": True}))
        status, headers, body = answer(sock)
    assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
    assert int(headers["retry-after"]) >= 1
    for path, key in (("/v1/messages", "messages"), ("/v1/responses", "input")):
        with closing(connect(server)) as sock:
            sock.sendall(request({key: TURNS, "stream": True}, path))
            status, headers, body = answer(sock)
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("stream", [True, False])
def test_waiting_has_an_end(server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    running = [connect(server) for _ in range(2)]
    for sock in running:
        sock.sendall(request({**ENDLESS, "stream": True}))
    server.until(lambda stats: stats.running == 2)
    monkeypatch.setattr(server.llm.llama._runtime.engine._loop.deadlines, "patience", 0.05)
    with closing(connect(server)) as sock:
        sock.sendall(request({**ENDLESS, "stream": stream}))
        status, headers, body = answer(sock)
    assert (status, json.loads(body)["error"]["code"]) == (503, "queue_timeout")
    assert int(headers["retry-after"]) >= 1
    assert server.stats.running == 2
    for sock in running:
        sock.close()


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
    ],
)
def test_half_a_request(server: Running, data: bytes) -> None:
    with closing(connect(server)) as sock:
        sock.sendall(data)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"prompt": "\xff\xfe"}', "invalid_json"),
        (b'{"prompt": "\\ud800"}', "invalid_json"),
        (b'{"prompt": "a", "temperature": NaN}', "invalid_json"),
        (b"[]", "invalid_json"),
        (b"", "invalid_json"),
        (b'{"prompt": ' + b"[" * 80 + b"]" * 80 + b"}", "invalid_json"),
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    ],
)
def test_a_body_that_is_no_json(server: Running, body: bytes, code: str) -> None:
    with closing(connect(server)) as sock:
        sock.sendall(request(body))
        status, _, found = answer(sock)
    assert (status, json.loads(found)["error"]["code"]) == (400, code)


def test_a_body_in_chunks(server: Running) -> None:
    data = b'{"prompt": "Once", "max_tokens": 2}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with closing(connect(server)) as sock:
        sock.sendall(head + b"".join(b"5\r\n%s\r\n" % data[i : i + 5] for i in range(0, len(data), 5)) + b"0\r\n\r\n")
        assert answer(sock)[0] == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1E8480\r\n"]
)
def test_a_body_that_is_too_large(server: Running, framing: bytes) -> None:
    with closing(connect(server)) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + framing)
        if b"chunked" in framing:
            sock.sendall(b" " * (1 << 20) + b" " * 10)
        status, _, body = answer(sock)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


def test_a_head_that_is_too_large(server: Running) -> None:
    with closing(connect(server)) as sock:
        sock.sendall(request({}, "/health", "GET", f"X-Long: {'a' * 40_000}"))
        assert answer(sock)[0] == 431
    with closing(connect(server)) as sock:
        sock.sendall(request({}, f"/health?{'a' * 10_000}", "GET"))
        assert answer(sock)[0] == 414


def test_requests_one_after_the_other_on_one_connection(server: Running) -> None:
    with closing(connect(server)) as sock:
        for _ in range(2):
            sock.sendall(request({"prompt": "Once", "max_tokens": 2}))
            assert answer(sock)[0] == 200
        sock.sendall(request({"prompt": "Once", "max_tokens": 2}) * 2)
        data = b""
        while data.count(b"HTTP/1.1 200") < 2:
            data += (part := sock.recv(65536))
            assert part
