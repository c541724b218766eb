"""``llama-cffi completion``: what a shell completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.completion import shell_complete

from llama_cffi.cli.app import app
from llama_cffi.cli.completion import PROGRAM, VARIABLE, know_shells
from tests.cli.test_commands import clean_environment, refused, run

__all__ = ["clean_environment"]  # a fixture of every test here, too

BASH = shutil.which("bash")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program under its own name, on the search path."""
    file = tmp_path / "llama-cffi"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m llama_cffi "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return file


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes(program: Path) -> None:
    lines = [
        'eval "$(llama-cffi completion bash)"',
        "COMP_WORDS=(llama-cffi generate --spec-type draft-) COMP_CWORD=3",
        "_llama_cffi_completion llama-cffi",
        'echo "${COMPREPLY[*]}"',
    ]
    done = subprocess.run([str(BASH), "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {"draft-simple", "draft-mtp", "draft-eagle3"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("gen", {"generate"}),
        ("generate --spec-ty", {"--spec-type"}),
        ("serve -m model.gguf --models-d", {"--models-dir"}),
        ("completion z", {"zsh"}),
        ("generate -m ./", set()),  # no words: the shell completes files
    ],
)
def test_words(
    words: str, found: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    know_shells()
    monkeypatch.setenv("COMP_WORDS", f"{PROGRAM} {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    command: Any = typer.main.get_command(app)
    assert shell_complete(command, {}, PROGRAM, VARIABLE, "complete_bash") == 0
    assert set(capsys.readouterr().out.split()) == found


def test_every_shell_gets_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert run("completion").stdout.startswith("#compdef llama-cffi\n")
    assert "complete --command llama-cffi" in run("completion", "fish").stdout
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert "give one of bash, zsh, fish, powershell" in refused(2, "completion")
