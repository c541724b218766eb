"""Files over HTTP on 127.0.0.1, from memory, by a server with the ways of many: ranges, breaks, redirects."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class FileServer:
    """``files`` by path. ``requests`` are the paths with the headers that came.

    ``breaks`` are the numbers of bytes after which the answers to a path break, one for each answer. ``redirects`` maps
    a path to an address. ``etags``, ``ranges``, ``conditions`` and ``lengths`` switch off what a server may lack.
    ``needs`` is the Authorization without which there is 401.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _sent: int = 0
    _answering: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    etags: bool = True
    ranges: bool = True
    conditions: bool = True
    lengths: bool = True
    needs: str | None = None
    status: int | None = None
    """What every request is answered with, where it is set."""
    gate: threading.Event | None = None
    """What the second half of each file waits for."""

    @property
    def sent(self) -> int:
        """Bytes of contents that went out, once every answer has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._answering, 30)
            return self._sent

    def tag(self, path: str) -> str:
        """The ETag of a file."""
        return f'"{hashlib.sha1(self.files[path]).hexdigest()}"'

    def ranges_of(self, path: str) -> list[str | None]:
        """The Range of each request for a file."""
        return [headers.get("Range") for asked, headers in self.requests if asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: FileServer

    def do_GET(self) -> None:
        server = self.server_of
        with server._changed:
            server._answering += 1
        try:
            self._answer()
        finally:
            with server._changed:
                server._answering -= 1
                server._changed.notify_all()

    def _answer(self) -> None:
        server, path = self.server_of, unquote(urlsplit(self.path).path)
        server.requests.append((path, dict(self.headers)))
        if path in server.redirects:
            self._send(302, b"", {"Location": server.redirects[path]})
        elif server.status is not None:
            self._send(server.status, b"no")
        elif server.needs is not None and self.headers.get("Authorization") != server.needs:
            self._send(401, b"")
        elif path not in server.files:
            self._send(404, b"")
        else:
            self._file(path)

    def _file(self, path: str) -> None:
        server, data = self.server_of, self.server_of.files[path]
        headers = {"ETag": server.tag(path)} if server.etags else {}
        if server.etags and self.headers.get("If-None-Match") == headers["ETag"]:
            self._send(304, b"", headers)
            return
        wanted = self.headers.get("Range") if server.ranges else None
        condition = self.headers.get("If-Range")
        if condition is not None and server.conditions and condition != headers.get("ETag"):
            wanted = None
        breaks = server.breaks.get(path)
        cut = breaks.pop(0) if breaks else None
        if wanted is None:
            self._send(200, data, headers, cut)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(len(data), int(last) + 1 if last else len(data))
        if start >= len(data):
            self._send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._send(206, data[start:end], headers, cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        server = self.server_of
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if server.lengths or status != 200:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        body = body if cut is None else body[:cut]
        half = len(body) // 2 if server.gate is not None else len(body)
        for piece in (body[:half], body[half:]):
            try:
                self.wfile.write(piece)
                self.wfile.flush()
                server._sent += len(piece)
            except OSError:  # the client has enough
                return
            if server.gate is not None and piece is not body[half:]:
                server.gate.wait(30)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are recorded, not printed."""


@contextmanager
def serve_files() -> Iterator[FileServer]:
    """A server without files, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    files = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"server_of": files})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield files
    finally:
        if files.gate is not None:
            files.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


__all__ = ["FileServer", "serve_files"]
