"""Memory of a process beyond what libllama itself takes for the same work."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import psutil

from benchmarks.compiler import compile_c
from benchmarks.peers import PREFIX, BenchmarkError, PythonPeer, Settings

MIB = 2**20
PACKAGE_N_SEQ_MAX = 8
"""The default of :class:`llama_cffi.Llama`."""


def resident(process: subprocess.Popen[str]) -> float:
    """Resident memory in MiB of a worker that says ``ready``; the worker ends."""
    with process:
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise BenchmarkError("the worker ended before it was ready")
        size: int = psutil.Process(process.pid).memory_info().rss
        process.communicate("done\n")
    return size / MIB


def baseline(model: Path, settings: Settings, n_seq_max: int, prefix: Path = PREFIX) -> float:
    """Resident memory in MiB of a C program that does with libllama what the Python workers do."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_c("baseline.c", Path(folder) / "baseline", prefix=prefix)
        numbers = (
            settings.n_ctx,
            min(settings.n_batch, settings.n_ctx),
            settings.n_ubatch,
            n_seq_max,
            settings.threads,
            settings.n_prompt,
        )
        command = [str(program), str(model), *map(str, numbers)]
        return resident(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))


def worker(peer: PythonPeer, model: Path, settings: Settings) -> float:
    """Resident memory in MiB of a Python peer after a prompt and some tokens."""
    return resident(peer.start("memory", model, asdict(settings)))


def bare_python() -> float:
    """Resident memory in MiB of an interpreter that has only imported numpy."""
    import sys

    code = "import sys, numpy; print('ready', flush=True); sys.stdin.readline()"
    return resident(
        subprocess.Popen([sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
