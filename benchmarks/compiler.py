"""C programs of the benchmarks, compiled against the libllama that everybody uses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.peers import PREFIX, BenchmarkError, run_command


def compile_c(name: str, target: Path, *flags: str, prefix: Path = PREFIX) -> Path:
    """Compile ``name`` of this folder into ``target``; :class:`BenchmarkError` without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchmarkError("the benchmark needs a C compiler (set CC)")
    lib = prefix / "lib"
    links = [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lllama", "-lggml", "-lggml-base"]
    source = Path(__file__).with_name(name)
    run_command([*compiler.split(), "-O1", *flags, f"-I{prefix / 'include'}", str(source), "-o", str(target), *links])
    return target
