"""llama.cpp's own server as a child process: what it makes of a request is what ours is compared with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0

# Answers come from this machine: a proxy of the environment has no business here.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ServerError(Exception):
    """The server did not start, or refused a request; the message has its reason."""


def find_server() -> Path | None:
    """llama-server in the build prefix (``build_libllama.py --tool llama-server``), or None."""
    found = shutil.which("llama-server", path=str(ROOT / "build" / "libllama" / "bin"))
    return Path(found) if found else None


class LlamaServer:
    """A running server; :func:`running_server` makes one."""

    def __init__(self, port: int, seconds: float, pid: int) -> None:
        self.port, self.pid = port, pid
        self._url = f"http://127.0.0.1:{port}"
        self._seconds = seconds

    def get(self, path: str) -> Any:
        """The JSON answer to a GET; :class:`ServerError` as :meth:`post`."""
        return self._ask(urllib.request.Request(self._url + path))

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a POST of JSON; :class:`ServerError` with the server's reason when it refuses."""
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self._url + path, json.dumps(body).encode(), headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with _open(request, timeout=self._seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(error.read().decode("utf-8", "replace")) from None
        except OSError as error:
            raise ServerError(f"no answer from {request.full_url}: {error}") from None


@contextmanager
def running_server(
    program: Path | Sequence[object], model: Path, *options: object, log: Path, seconds: float = 120.0
) -> Iterator[LlamaServer]:
    """A server on a free port of 127.0.0.1 with a model and options of its command line; it ends with the block.

    ``program`` may be a command, of another server with the same options. What it says goes to ``log``; ``seconds`` is
    how long one answer may take. Raises :class:`ServerError` with the
    end of the log when it does not start.
    """
    port = _free_port()
    # Nothing is fetched, and the settings of the user's environment are none of the test's.
    command = [*([program] if isinstance(program, Path) else program), "-m", model]
    command += ["--host", "127.0.0.1", "--port", port, "--offline", *options]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}
    with log.open("wb") as file:
        child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env
        )
    try:
        server = LlamaServer(port, seconds, child.pid)
        _wait(server, child, log)
        yield server
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(server: LlamaServer, child: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            server.get("/health")
            return
        except ServerError as error:
            if child.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
                continue
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ServerError(f"llama-server did not start: {error}\n{tail}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


__all__ = ["LlamaServer", "ServerError", "find_server", "running_server"]
