"""llama-server as a contender: where it is, and how it runs with the settings of the others."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.peers import BenchmarkError, Settings
from tests.support.llama_server import LlamaServer, find_server, running_server

PAUSE = 0.5
"""Seconds to wait before a turn: threads of llama.cpp spin for 0.15 s after their work, and cost whoever comes next."""


def server_program() -> Path:
    """llama-server from the same build. Raises :class:`BenchmarkError` where it was not built."""
    program = find_server()
    if program is None:
        raise BenchmarkError(
            "there is no llama-server; build it with\n    python scripts/build_libllama.py --tool llama-server"
        )
    return program


def generating_server(
    program: Path, model: Path, settings: Settings, *extra: object, log: Path
) -> AbstractContextManager[LlamaServer]:
    """One slot that generates with these settings; ``extra`` are more options. Raises :class:`ServerError`."""
    options = ("--ctx-size", settings.n_ctx, "--parallel", 1, *_same(settings))
    return running_server(program, model, *options, *extra, log=log)


def own_server(
    model: Path, settings: Settings, *extra: object, longest: int, log: Path
) -> AbstractContextManager[LlamaServer]:
    """This package's server with the same settings, for texts of at most ``longest`` tokens; as the one above."""
    command = (sys.executable, "-m", "llama_cffi", "serve")
    options = ("--ctx-size", longest, "--kv-cells", settings.n_ctx, *_same(settings))
    return running_server(command, model, *options, *extra, log=log)


def _same(settings: Settings) -> tuple[object, ...]:
    options: dict[str, object] = {
        "--threads": settings.threads,
        "--threads-batch": settings.threads,
        "--batch-size": settings.n_batch,
        "--ubatch-size": settings.n_ubatch,
        "--cache-type-k": "f16",
        "--cache-type-v": "f16",
        "--flash-attn": "auto",
    }
    return tuple(part for pair in options.items() for part in pair)
