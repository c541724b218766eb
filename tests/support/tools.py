"""llama.cpp's own programs, made from the same source; a test that asks for one is skipped where it is missing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _tool(name: str) -> Path:
    path = ROOT / "build" / "libllama" / "bin" / name
    if not path.is_file():
        pytest.skip(f"no {path} (python scripts/build_libllama.py --tool {name})")
    return path


Measure = Callable[..., tuple[float, float]]
"""Arguments of llama-perplexity to the number that it prints and its standard error."""


@pytest.fixture(scope="session")
def llama_perplexity() -> Measure:
    """The program that measures perplexity."""
    tool = _tool("llama-perplexity")

    def measure(*arguments: str | Path) -> tuple[float, float]:
        for _ in range(10):
            done = subprocess.run([tool, *arguments, "-t", "1"], capture_output=True, text=True, check=True)
            found = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", done.stdout + done.stderr)
            if found is not None:
                return float(found[1]), float(found[2])
            # Its log is written by a thread, which the end of the program may overtake.
        raise AssertionError(f"llama-perplexity says no number:\n{done.stderr[-2000:]}")

    return measure


@pytest.fixture(scope="session")
def llama_quantize() -> Path:
    """The program that quantizes."""
    return _tool("llama-quantize")
