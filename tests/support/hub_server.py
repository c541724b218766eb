"""A hub on 127.0.0.1: what huggingface_hub asks of the real one, from memory, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Commit:
    """The files of a repository; ``claims`` replaces the SHA-256 of some with a wrong one."""

    files: dict[str, bytes]
    claims: dict[str, str] = field(default_factory=dict)

    def sha256(self, path: str) -> str:
        return self.claims.get(path) or hashlib.sha256(self.files[path]).hexdigest()

    @property
    def id(self) -> str:
        text = "".join(f"{path}\n{self.sha256(path)}\n" for path in sorted(self.files))
        return hashlib.sha1(text.encode()).hexdigest()


class Hub:
    """``repos`` maps a repository to its branches; ``requests`` records (method, path, Range header).

    ``breaks`` maps a file's path to the numbers of bytes after which the connection breaks, one for each answer.
    ``nonsense`` answers every question with a page that is no JSON.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.repos: dict[str, dict[str, Commit]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.breaks: dict[str, list[int]] = {}
        self.nonsense = False

    def add(
        self, repo: str, files: dict[str, bytes], *, branch: str = "main", claims: dict[str, str] | None = None
    ) -> str:
        """Put files into a branch, in place of those that are there; the id of the commit."""
        commit = Commit(files, claims or {})
        self.repos.setdefault(repo, {})[branch] = commit
        return commit.id

    def commit(self, repo: str, revision: str) -> Commit | None:
        branches = self.repos.get(repo, {})
        return branches.get(revision) or next((one for one in branches.values() if one.id == revision), None)

    def downloads(self) -> list[tuple[str, str | None]]:
        """(file, Range) of each time that content was asked for."""
        return [(path.split("/", 5)[5], part) for method, path, part in self.requests if _fetches(method, path)]


def _fetches(method: str, path: str) -> bool:
    return method == "GET" and "/resolve/" in path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if self.hub.nonsense:
            self._send(200, b"<html>hello</html>", {"Content-Type": "text/html"})
        elif parts[:2] == ["api", "models"] and len(parts) in (4, 6):
            self._info("/".join(parts[2:4]), parts[5] if len(parts) == 6 else "main")
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, b"")

    def _find(self, repo: str, revision: str) -> Commit | None:
        commit = self.hub.commit(repo, revision)
        if commit is None:
            code = "RevisionNotFound" if repo in self.hub.repos else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code})
        return commit

    def _info(self, repo: str, revision: str) -> None:
        if (commit := self._find(repo, revision)) is None:
            return
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
                "lfs": {"sha256": commit.sha256(path), "size": len(data), "pointerSize": 130},
            }
            for path, data in commit.files.items()
        ]
        body = {"id": repo, "modelId": repo, "sha": commit.id, "private": False, "tags": [], "siblings": siblings}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if (commit := self._find(repo, revision)) is None:
            return
        if path not in commit.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.id})
            return
        data, start = commit.files[path], 0
        end = len(data)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1) if last else end
        headers = {
            "ETag": f'"{hashlib.sha1(path.encode()).hexdigest()}"',
            "X-Linked-Etag": f'"{commit.sha256(path)}"',
            "X-Linked-Size": str(len(data)),
            "X-Repo-Commit": commit.id,
        }
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        breaks = self.hub.breaks.get(path) if self.command == "GET" else None
        self._send(206 if wanted else 200, data[start:end], headers, breaks.pop(0) if breaks else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = cut is not None

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are recorded, not printed."""


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub without repositories, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


__all__ = ["Commit", "Hub", "serve"]
