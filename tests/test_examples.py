"""Every example runs as it stands: with the model that ships, or saying what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {"fastapi_app": ("fastapi", "httpx")}
"""Packages of others that an example needs."""


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TAKING_A_MODEL = [path for path in EXAMPLES if "Llama(sys.argv[1]" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(path: Path) -> None:
    for module in NEEDED.get(path.stem, ()):
        pytest.importorskip(module)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], env=environment, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("path", TAKING_A_MODEL, ids=lambda path: path.stem)
def test_an_example_without_its_model(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), "none.gguf"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no such file: none.gguf\n"


@pytest.mark.parametrize(("name", "kind"), [("image", "qwen2vl"), ("audio", "llama")])
def test_an_example_with_media(name: str, kind: str, tmp_path: Path, assets: Path) -> None:
    from tests.support.media_kinds import FILES, write_kind

    made = write_kind(tmp_path, kind, assets)
    file = tmp_path / "medium"
    file.write_bytes(list(FILES[kind].values())[-1])
    command: list[str | Path] = [sys.executable, ROOT / "examples" / f"{name}.py", made.model, made.projector, file]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("were in memory" if name == "image" else "seconds") in done.stdout


def test_an_example_that_speaks(tmp_path: Path) -> None:
    from llama_cffi import Audio
    from tests.support.speech_models import write_speaking_model

    made = write_speaking_model(tmp_path, "pockettts", ends=True)
    command: list[str | Path] = [sys.executable, ROOT / "examples" / "speech.py", made.model, made.projector]
    done = subprocess.run(
        [*command, tmp_path / "out.wav", "Good morning!"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "at 24000 samples" in done.stdout
    assert Audio(tmp_path / "out.wav").n_samples > 0


def test_examples_that_take_a_model() -> None:
    assert len(TAKING_A_MODEL) >= 7
