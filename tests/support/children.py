"""Python programs and modules in child processes: for what ends an interpreter, or might."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_child(program: str, *arguments: object, timeout: float = 120) -> str:
    """Run a program with warnings as errors and faulthandler on; return its standard output.

    A child that does not exit with 0, or writes anything to standard error, fails the test.
    """
    options = ("-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(program))
    result = _run((*options, *map(str, arguments)), timeout)
    assert (result.returncode, result.stderr) == (0, ""), f"exit code {result.returncode}\n{result.stderr}"
    return result.stdout


def run_module(module: str, *arguments: object, timeout: float = 600) -> list[str]:
    """Run a module of the repository; return the lines that it prints.

    A child that does not exit with 0 fails the test with the end of what it wrote.
    """
    result = _run(("-m", module, *map(str, arguments)), timeout)
    ended = f"exit code {result.returncode}"
    assert result.returncode == 0, f"{ended}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout.splitlines()


def _run(arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
