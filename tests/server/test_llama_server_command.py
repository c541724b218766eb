"""The flags of ``llama-cffi serve`` for llama-server's own endpoints, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_cffi.runtime import demo_path
from tests.support.lora import random_pairs, write_lora
from tests.support.serve_command import ROOT, serving, wait_ready

httpx = pytest.importorskip("httpx")


def test_adapters_slots_and_compatibility(tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "style.gguf", random_pairs(Path(demo_path())))
    flags = ["--lora", str(lora), "--lora-init-without-apply", "--slot-save-path", str(tmp_path)]
    with serving(*flags, "--compat", "llama-server", "-np", "2") as (process, url):
        wait_ready(url)
        with httpx.Client(base_url=url, timeout=60) as client:
            (adapter,) = client.get("/lora-adapters").json()
            assert (adapter["path"], adapter["scale"]) == ("style.gguf", 0.0)
            body: dict[str, Any] = {"prompt": "Once upon a time", "n_predict": 6, "temperature": 0, "id_slot": 3}
            plain = client.post("/completion", json=body).json()
            tuned = client.post("/completion", json={**body, "lora": [{"id": 0, "scale": 1}]}).json()
            assert plain["content"] != tuned["content"]
            assert (plain["id_slot"], plain["prompt"][-4:]) == (1, "time")
            client.post("/completion", json=body)
            saved = client.post("/slots/1?action=save", json={"filename": "one"}).json()
            assert saved["n_saved"] == plain["tokens_cached"]
            assert (tmp_path / "one").stat().st_size == saved["n_written"]
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("flag", "value", "said"), [("--compat", "ollama", "only llama-server"), ("--slot-save-path", "/nowhere", "folder")]
)
def test_what_a_flag_cannot_be(flag: str, value: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llama_cffi", "serve", "--port", "0", flag, value],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
