"""The state of one sequence: saved and restored, beside plain copies of as many bytes.

    python benchmarks/state.py [--quick] [--json FILE]

In memory the yardstick is numpy's copy, into new memory where llama_cffi takes new memory too and into old where it is
given a buffer. On disk it is one write with fsync, and one read of a file that is in no cache, where the system lets
the benchmark throw it out (Linux). Everything takes turns; ratios are taken within a round. Before each turn memory is
touched and given back: a virtual machine gets what it has not used for a while from its host, at a tenth of the speed.
llama.cpp also goes through the list of cells one by one, so the fewer bytes a token takes in memory, the lower the
ratios: try ``--model 15M``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import MEMORY_SHAPES, SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import BenchmarkError, Settings, llama_cpp_python  # noqa: E402
from benchmarks.report import report  # noqa: E402
from llama_cffi import Batch, Context, ContextOptions, Model, SavedState  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_TOKENS = 256


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Save and restore one sequence, beside plain copies.")
    parser.add_argument("--quick", action="store_true", help="a small state, one round: does it run at all?")
    parser.add_argument("--tokens", type=int, help="length of the sequence (default: 8192; a power of two)")
    parser.add_argument("--rounds", type=int, help="default: 15")
    parser.add_argument("--model", choices=(*MEMORY_SHAPES, *SHAPES), default="memory-1B")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: that of --cache)")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with llama-cpp-python")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    options = parser.parse_args()
    options.tokens = options.tokens or (1024 if options.quick else 8192)
    options.rounds = options.rounds or (2 if options.quick else 15)
    return options


def fill(context: Context, n_tokens: int) -> None:
    """A sequence of so many tokens, of which only the first are computed: the others are their cells again."""
    batch = Batch(FIRST_TOKENS)
    batch.extend([300] * FIRST_TOKENS, 0)
    context.decode(batch)
    n, memory, state = FIRST_TOKENS, context.memory, context.state
    while n < n_tokens:
        state.seq_set_data(1, state.seq_data(0))
        memory.seq_add(1, 0, None, n)
        memory.seq_cp(1, 0)
        memory.seq_rm(1)
        n *= 2


def write_file(path: Path, data: NDArray[np.uint8]) -> None:
    """One write, and fsync."""
    with open(path, "wb", buffering=0) as file:
        file.write(data.data)
        os.fsync(file.fileno())


def read_file(path: Path, n: int) -> NDArray[np.uint8]:
    """One read into new memory."""
    data = np.empty(n, dtype=np.uint8)
    with open(path, "rb", buffering=0) as file:
        if file.readinto(data.data) != n:
            raise BenchmarkError(f"{path} was not read at once: take fewer --tokens")
    return data


def forget(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pairs(
    context: Context, target: Context, folder: Path
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What is measured, each with its yardstick."""
    state, data = context.state, context.state.seq_data(0)
    room, copy = np.empty_like(data), np.empty_like(data)
    plain, ours, theirs = folder / "plain", folder / "ours", folder / "llama.cpp"
    write_file(plain, data)
    SavedState.take(context, seq_id=0).write(ours)
    state.seq_save_file(0, theirs)

    def read_plain() -> None:
        forget(plain)
        start_of_read()
        read_file(plain, len(data))

    def read_ours() -> None:
        forget(ours)
        start_of_read()
        SavedState.read(ours, lambda header: header.check(target)).restore(target)

    def read_theirs() -> None:
        forget(theirs)
        start_of_read()
        target.state.seq_load_file(0, theirs)

    return {
        "save, new memory": (lambda: state.seq_data(0), data.copy),
        "save, own buffer": (lambda: state.seq_data(0, room), lambda: np.copyto(copy, data)),
        "restore": (lambda: target.state.seq_set_data(0, data), lambda: np.copyto(copy, data)),
        "write a file": (lambda: SavedState.take(context, seq_id=0).write(ours), lambda: write_file(plain, data)),
        "read a file": (read_ours, read_plain),
        "llama.cpp's file, write": (lambda: state.seq_save_file(0, theirs), lambda: write_file(plain, data)),
        "llama.cpp's file, read": (read_theirs, read_plain),
    }


_start = 0.0


def start_of_read() -> None:
    """What came before is preparation."""
    global _start
    _start = perf_counter()


def seconds(call: Callable[[], object], size: int) -> float:
    """Time of a call, from its last :func:`start_of_read` on; it finds memory for a few states."""
    np.empty(4 * size, dtype=np.uint8).fill(1)
    start_of_read()
    call()
    return perf_counter() - _start


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; what was measured comes back."""
    path = model_file(options.model, options.cache)
    settings = ContextOptions(n_ctx=options.tokens, n_seq_max=2, n_batch=FIRST_TOKENS, flash_attn="enabled")
    samples: dict[str, list[tuple[float, float]]] = {}
    with (
        Model(path) as model,
        Context(model, settings) as context,
        Context(model, settings) as target,
        tempfile.TemporaryDirectory(dir=options.folder or options.cache) as folder,
    ):
        fill(context, options.tokens)
        size = context.state.seq_size(0)
        print(f"{describe(options.model, path)}; {options.tokens:,} tokens are {size / 1e6:.1f} MB\n")
        tests = pairs(context, target, Path(folder))
        for i in range(options.rounds + 1):
            for name, (own, plain) in tests.items():
                # Who comes second finds memory that the first one has just given back: they take turns in that too.
                pair = (own, plain) if i % 2 else (plain, own)
                took = {call: seconds(call, size) for call in pair}
                if i:  # memory that was never touched comes slowly from the system: the first round is for that
                    samples.setdefault(name, []).append((took[own], took[plain]))
        if not np.array_equal(target.state.seq_data(0), context.state.seq_data(0)):
            raise BenchmarkError("what was restored is not what was saved")
    print(f"  {'':<26}{'GB/s':>8}{'plain':>8}  {'ratio':<8}quartiles")
    for name, times in samples.items():
        ratios = [plain / own for own, plain in times]
        own, plain = (size / statistics.median(column) / 1e9 for column in zip(*times, strict=True))
        low, high = spread(ratios)
        print(f"  {name:<26}{own:>8.2f}{plain:>8.2f}  {statistics.median(ratios):<8.2f}{low:.2f} to {high:.2f}")
    return {"bytes": size, "rounds": options.rounds, "seconds": samples, "peer": peer(options, path)}


def peer(options: argparse.Namespace, path: Path) -> dict[str, Any] | None:
    """llama-cpp-python's ``save_state`` and ``load_state``, for a prompt that it computes itself."""
    found = llama_cpp_python(options.peer_python)
    if isinstance(found, str):
        print(f"\n  llama-cpp-python is not measured: {found}")
        return None
    python, version = found
    n = min(options.tokens, 1024)
    settings = Settings(threads=2, n_prompt=n - 1, n_ctx=n, reps=options.rounds)
    times: dict[str, Any] = python.call("state", path, asdict(settings))
    print(f"\n  llama-cpp-python {version}, a state of {times['bytes'] / 1e6:.1f} MB:")
    for name in ("save", "restore"):
        print(f"  {name:<26}{times['bytes'] / statistics.median(times[name]) / 1e9:>8.2f}")
    return times


if __name__ == "__main__":
    sys.exit(report(run, parse()))
