"""Connections that would last for ever: half a head, no head, an endless one, a body that does not come, no reading."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest.importorskip("httptools", reason="needs the extra llama-cffi[server]")

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.server.connection import Connection

    for name in ("head_seconds", "rest_seconds", "stall_seconds"):
        monkeypatch.setattr(Connection, name, 0.1)


@pytest.fixture
def sock(server: Running, hasty: None) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as sock:
        yield sock


def rest(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def answer(data: bytes) -> tuple[int, Any]:
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_nothing_comes(sock: socket.socket) -> None:
    assert rest(sock) == b""


@pytest.mark.parametrize("part", [b"P", HEAD, HEAD + b"Content-Len"])
def test_half_of_a_head(sock: socket.socket, part: bytes) -> None:
    sock.sendall(part)
    assert answer(rest(sock)) == (408, "head_timeout")


def test_a_head_that_comes_byte_by_byte(sock: socket.socket) -> None:
    sock.settimeout(0.01)
    data = b""
    for _ in range(3000):
        try:
            sock.sendall(b"a") if data else sock.sendall(HEAD + b"X-")
            data = data or b"-"
            data += (part := sock.recv(65536))
            if not part:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    assert answer(data[1:]) == (408, "head_timeout")


def test_half_of_a_second_head(sock: socket.socket) -> None:
    sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    first = sock.recv(65536)
    while not first.endswith(b'{"status":"ok"}'):
        first += sock.recv(65536)
    sock.sendall(HEAD)
    assert answer(rest(sock)) == (408, "head_timeout")


def test_a_head_without_end(sock: socket.socket) -> None:
    sock.sendall(HEAD + b"X-Long: ")
    data = b""
    try:
        for _ in range(64):
            sock.sendall(b"a" * 65536)
        data = rest(sock)
    except OSError:  # it is closed while more is on its way
        return
    assert answer(data) == (431, "headers_too_large")


def test_what_is_no_http(sock: socket.socket) -> None:
    sock.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert answer(rest(sock)) == (400, "invalid_http")


def test_what_is_no_http_behind_a_stream_does_not_get_into_it(sock: socket.socket) -> None:
    body = b'{"prompt": "Once", "max_tokens": 200, "ignore_eos": true, "stream": true, "temperature": 0}'
    sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    data = sock.recv(100)
    sock.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
    data += rest(sock)
    assert data.count(b"HTTP/1.1") == 1
    assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_connections_have_a_number(sock: socket.socket, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.server import connection

    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 0)
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as further:
        assert answer(rest(further)) == (503, "too_many_requests")


def test_a_body_that_does_not_come(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.server import body

    monkeypatch.setattr(body, "_SECONDS", 0.1)
    sock.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert answer(rest(sock)) == (408, "body_timeout")


def test_the_rest_of_a_body_that_was_answered(sock: socket.socket) -> None:
    sock.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    data = rest(sock)
    assert data.startswith(b"HTTP/1.1 404")


def test_a_body_may_come_after_its_answer(sock: socket.socket) -> None:
    sock.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
    data = sock.recv(65536)
    assert data.startswith(b"HTTP/1.1 404")
    sock.sendall(b"}" + b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"HTTP/1.1 200" in rest(sock)


STREAM = {"prompt": "Once", "ignore_eos": True, "stream": True, "temperature": 0, "logprobs": 100}


def ask_through(path: Path) -> socket.socket:
    """A client that has asked for a large stream, through buffers that do not grow."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(30)
    sock.connect(str(path))
    body = json.dumps(STREAM).encode()
    sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return sock


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no socket files")
def test_who_does_not_read_is_given_up(server: Running, hasty: None, tmp_path: Path) -> None:
    from llama_cffi.server.listening import bind
    from llama_cffi.server.settings import Settings
    from tests.server.conftest import serving

    path = tmp_path / "x.sock"
    with serving(bind(str(path), 0), Settings(), server.llm) as (running, _), closing(ask_through(path)):
        server.until(lambda stats: stats.running == 1)
        server.until(lambda stats: stats.running == 0)
        while running.server_state.connections:
            time.sleep(0.01)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no socket files")
def test_the_end_waits_for_slow_readers_and_not_for_those_that_do_not_read(
    server: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from llama_cffi.server import run
    from llama_cffi.server.listening import bind
    from llama_cffi.server.settings import Settings
    from tests.server.conftest import serving

    monkeypatch.setattr(run, "CUT_SECONDS", 0.7)
    path = tmp_path / "x.sock"
    with serving(bind(str(path), 0), Settings(drain_timeout=0.0), server.llm) as (running, _):
        slow, stopped = ask_through(path), ask_through(path)
        with closing(slow), closing(stopped):
            server.until(lambda stats: stats.running == 2)
            connections: Any = running.server_state.connections
            while not all(one.flow.write_paused for one in connections):
                time.sleep(0.01)
            running.end()
            data = b""
            while part := slow.recv(4096):
                data += part
                time.sleep(0.001)
            found = [line for line in data.split(b"\n") if line.startswith(b"data: ")]
            assert json.loads(found[-1][6:])["error"]["code"] == "shutting_down"
            assert data.endswith(b"0\r\n\r\n")
            while running.server_state.connections:
                time.sleep(0.01)
    server.until_idle()
