"""A server of OpenAI's API that says what a test wants, with the chat page of ours in front of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CUT = "cut"
"""A step at which the connection ends."""
SECONDS = 20.0

Step = dict[str, Any] | threading.Event | str | bytes


@dataclass
class Script:
    """The answer to one chat: steps of a stream, each a chunk, bytes, an event to wait for, or ``CUT``; or a body."""

    steps: Sequence[Step] = ()
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def delta(**more: Any) -> dict[str, Any]:
    """A chunk that adds to the message."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": more, "finish_reason": None}]}


def ending(reason: str = "stop", **more: Any) -> dict[str, Any]:
    """The chunk that ends the message."""
    usage = {"prompt_tokens": 12, "completion_tokens": 34, "prompt_tokens_details": {"cached_tokens": 5}}
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason, **more}], "usage": usage}


def says(text: str, n_characters: int = 7) -> list[Step]:
    """A stream of a text in pieces."""
    pieces = [text[i : i + n_characters] for i in range(0, len(text), n_characters)]
    return [*(delta(content=one) for one in pieces), ending()]


def error(status: int, code: str | None = None, message: str = "it failed", **more: Any) -> Script:
    """A refusal."""
    headers = more.pop("headers", {})
    return Script(body={"error": {"message": message, "code": code, **more}}, status=status, headers=headers)


class ChatServer:
    """What answers, and what it was asked. Chats without a script are answered with what they said last."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.asked: list[dict[str, Any]] = []
        """The bodies of chats."""
        self.key: str | None = None
        self.props: Any = None
        """What ``/props`` says, if there is one."""
        self.models: list[dict[str, Any]] = [{"id": "canned"}]
        self.down = False
        """Whether everything but the page is status 502."""
        self.url = ""

    def says(self, *scripts: Script | list[Step] | str) -> None:
        """Set the next answers."""
        for one in scripts:
            steps = says(one) if isinstance(one, str) else one
            self.scripts.append(steps if isinstance(steps, Script) else Script(steps))


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    from llama_cffi.server.page import PATHS, page

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in PATHS:
                content, headers = page()
                self._send(200, content, {"Content-Type": "text/html; charset=utf-8", **headers})
            elif self._is_refused():
                pass
            elif self.path == "/v1/models":
                self._json(200, {"object": "list", "data": server.models})
            elif self.path.startswith("/props") and server.props is not None:
                self._json(200, server.props)
            else:
                self._json(404, {"error": {"message": "not found"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._is_refused():
                return
            server.asked.append(body)
            script = server.scripts.pop(0) if server.scripts else Script(says(body["messages"][-1]["content"]))
            if script.body is not None:
                self._json(script.status, script.body, script.headers)
            else:
                self._stream(script)

        def _stream(self, script: Script) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for step in script.steps:
                if isinstance(step, threading.Event):
                    self.wfile.flush()
                    step.wait(SECONDS)
                elif step == CUT:
                    return
                else:
                    data = step if isinstance(step, bytes) else b"data: " + json.dumps(step).encode() + b"\n\n"
                    self.wfile.write(data)
            self.wfile.write(b"data: [DONE]\n\n")

        def _is_refused(self) -> bool:
            if server.down:
                self._send(502, b"<html>", {"Content-Type": "text/html"})
            elif server.key is not None and self.headers.get("Authorization") != f"Bearer {server.key}":
                self._json(401, {"error": {"message": "no key"}})
            else:
                return False
            return True

        def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _send(self, status: int, content: bytes, headers: Any) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def handle(self) -> None:
            with suppress(ConnectionError):  # a page that has stopped an answer
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server on a free port, which ends with the block."""
    found = ChatServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(found)) as http:
        http.daemon_threads = True
        found.url = f"http://127.0.0.1:{http.server_port}/"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            http.shutdown()
            thread.join()


__all__ = ["CUT", "ChatServer", "Script", "Step", "chat_server", "delta", "ending", "error", "says"]
