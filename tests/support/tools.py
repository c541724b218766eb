"""llama.cpp's own programs, made from the same source; a test that asks for one is skipped where it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _tool(name: str) -> Path:
    path = ROOT / "build" / "libllama" / "bin" / name
    if not path.is_file():
        pytest.skip(f"no {path} (python scripts/build_libllama.py --tool {name})")
    return path


@pytest.fixture(scope="session")
def llama_perplexity() -> Path:
    """The program that measures perplexity."""
    return _tool("llama-perplexity")


@pytest.fixture(scope="session")
def llama_quantize() -> Path:
    """The program that quantises."""
    return _tool("llama-quantize")
