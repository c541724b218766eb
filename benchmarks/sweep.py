"""Builds of libllama that differ in a switch, each in a prefix of its own, for ``rows.py --sweep``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import ROOT, BenchmarkError

# The switches of ggml that decide how a CPU multiplies, as options of scripts/build_libllama.py.
SWITCHES: dict[str, tuple[str, ...]] = {
    "kernels": (),
    "no-llamafile": ("--cmake-arg=-DGGML_LLAMAFILE=OFF",),
    "no-repack": ("--cmake-arg=-DGGML_CPU_REPACK=OFF",),
    "openmp": ("--cmake-arg=-DGGML_OPENMP=ON",),
    "plain": ("--no-kernels",),
    "plain-no-llamafile": ("--no-kernels", "--cmake-arg=-DGGML_LLAMAFILE=OFF"),
}


def build_all(names: Sequence[str]) -> dict[str, str]:
    """Build the libraries of ``names`` that are missing or out of date; the path of each libllama."""
    return {name: str(_build(name)) for name in names}


def _build(name: str) -> Path:
    prefix = ROOT / "build" / "sweep" / name
    command = [sys.executable, str(ROOT / "scripts" / "build_libllama.py"), "--prefix", str(prefix), *SWITCHES[name]]
    if subprocess.run(command, check=False).returncode != 0:
        raise BenchmarkError(f"the library {name!r} of the sweep could not be built")
    for pattern in ("lib/libllama.so", "lib/libllama.dylib", "bin/llama.dll"):
        if (prefix / pattern).is_file():
            return prefix / pattern
    raise BenchmarkError(f"there is no libllama in {prefix}")
