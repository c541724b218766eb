"""Python programs in child processes: for what ends an interpreter, or might."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_child(program: str, *arguments: object, timeout: float = 120) -> str:
    """Run a program with warnings as errors and faulthandler on; return its standard output.

    A child that does not exit with 0, or writes anything to standard error, fails the test.
    """
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), f"exit code {result.returncode}\n{result.stderr}"
    return result.stdout
