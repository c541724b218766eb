"""``llama-cffi serve`` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its URL."""
    command = [sys.executable, "-m", "llama_cffi", "serve", "--port", "0", "-c", "512", "-t", "1", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMA_API_KEY": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.match(r"(http://127\.0\.0\.1:\d+) serves (\S+)", line)
            assert match, (line, process.stderr and process.stderr.read())
            yield process, match[1]
        finally:
            if process.poll() is None:
                process.kill()


def wait_ready(url: str, client: Any = None) -> None:
    import httpx

    for _ in range(3000):
        # The port is open before the model is there.
        found = (client or httpx).get(f"{url}/readyz", timeout=60)
        if found.status_code == 200:
            return
        assert found.status_code == 503
        time.sleep(0.02)
    raise AssertionError("it does not become ready")


__all__ = ["ROOT", "serving", "wait_ready"]
