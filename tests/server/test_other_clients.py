"""LangChain, LlamaIndex and LiteLLM against the server, each in a process of its own with the openai that it needs.

``pip install`` them into ``build/clients`` (``python -m venv``), or into what ``LLAMA_CFFI_CLIENTS`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.client_calls import ASK, CLIENTS, SHORT, TEXT

if TYPE_CHECKING:
    from tests.server.conftest import Running

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("LLAMA_CFFI_CLIENTS", ROOT / "build" / "clients")) / "bin" / "python"

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_what_the_server_says(server: Running, ask: Callable[..., Any], client: str) -> None:
    if not PYTHON.is_file():
        pytest.skip(f"there is no {PYTHON}, an interpreter with the clients")
    script = ROOT / "tests" / "support" / "client_calls.py"
    done = subprocess.run(
        [PYTHON, script, client, server.url], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    chat = ask("/v1/chat/completions", {"messages": [{"role": "user", "content": ASK}], **SHORT}).json()
    text = ask("/v1/completions", {"prompt": TEXT, **SHORT}).json()
    vectors = ask("/v1/embeddings", {"input": ["a cat", "a dog"]}).json()
    content = chat["choices"][0]["message"]["content"]
    expected = {"chat": content, "text": text["choices"][0]["text"], "usage": chat["usage"]["completion_tokens"]}
    for name, value in found.items():
        if name.startswith("calls"):
            assert [one[0] for one in value] == ["weather"]
            assert value[0][1]["city"] in ("Rome", "Oslo")
        elif name == "ages":
            assert len(value) == 2
            assert set(value) <= set(range(10))
        elif name.startswith("vector"):
            rows = np.array([one["embedding"] for one in vectors["data"]])
            np.testing.assert_allclose(value, rows[0] if name == "vector" else rows, rtol=1e-3, atol=1e-5)
        elif name == "chat of responses":
            # LiteLLM asks for 16 tokens at least.
            assert value.startswith(content)
        elif name == "chat batch":
            assert value == [content] * 3
        else:
            assert value == expected[name.partition(" ")[0]], name
