"""Claude Code and Codex against the server: the programs themselves, with a home of their own.

``npm install --prefix build/clients @anthropic-ai/claude-code @openai/codex`` puts them where they are looked for, or
into what ``LLAMA_CFFI_CLIENTS`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.serve_command import ROOT, serving, wait_ready

pytest.importorskip("httpx")
pytest.importorskip("uvicorn", reason="needs the extra llama-cffi[server]")

PROGRAMS = Path(os.environ.get("LLAMA_CFFI_CLIENTS", ROOT / "build" / "clients")) / "node_modules" / ".bin"

pytestmark = pytest.mark.clients


def run(program: str, *arguments: str, home: Path, **env: str) -> str:
    """What a program prints."""
    if not (PROGRAMS / program).exists():
        pytest.skip(f"there is no {program} in {PROGRAMS}")
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        [PROGRAMS / program, *arguments],
        env={**kept, **env, "HOME": str(home)}, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_claude_code(tmp_path: Path) -> None:
    with serving("-c", "16384", "-np", "2", "-t", "2", "-n", "60") as (_, url):
        wait_ready(url)
        env = {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "60",
        }
        # Its own system text and its tools have more tokens than are computed quickly here.
        given = ("-p", "--system-prompt", "Be brief.", "--tools", "Bash", "--model", "demo", "--output-format", "json")
        found = json.loads(run("claude", *given, "Tell me a story", home=tmp_path, **env))
        assert found["is_error"] is False, found
        assert found["result"]
        assert found["usage"]["input_tokens"] > 500
        assert found["usage"]["output_tokens"] > 0


def test_codex(tmp_path: Path) -> None:
    with serving("-c", "32768", "-np", "1", "-t", "2") as (_, url):
        wait_ready(url)
        (tmp_path / ".codex").mkdir()
        (tmp_path / ".codex" / "config.toml").write_text(
            f'model = "demo"\nmodel_provider = "own"\n'
            f'[model_providers.own]\nname = "own"\nbase_url = "{url}/v1"\nwire_api = "responses"\n'
        )
        answer = run("codex", "exec", "--skip-git-repo-check", "Tell me a story", home=tmp_path)
        assert len(answer.split()) > 3
