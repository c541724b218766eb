"""What is left of the speed of a lone stream while another process keeps one CPU busy.

    python benchmarks/busy.py [--quick] [--model 15M|160M] [--llama-bench NAME=PROGRAM] [--json FILE]

Each peer decodes alone and beside the busy process, in turns; a ratio is that of one such pair. The peers are this
package, this package with a fixed number of threads (``reproducible=True``), llama-bench from the same build with its
default settings, and other builds of llama-bench that are named: one with OpenMP, as llama.cpp is built by default,
comes from ``scripts/build_libllama.py --tool llama-bench --prefix DIR --cmake-arg=-DGGML_OPENMP=ON``. The last row is
the package against itself with a fixed number of threads while nothing else runs: what the watching costs. Only ratios
of one run mean anything, and those of a machine with other work say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import SHAPES, describe, measure_models  # noqa: E402
from benchmarks.peers import llama_bench, run_command  # noqa: E402
from benchmarks.report import report  # noqa: E402
from llama_cffi import Llama  # noqa: E402

N_TOKENS = {"15M": 1500, "160M": 250}
"""About three seconds of decoding."""

Peer = Callable[[], float]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure decoding beside a busy process.")
    parser.add_argument("--quick", action="store_true", help="2 rounds on the small model: does it run at all?")
    parser.add_argument("--rounds", type=int, default=8, help="pairs of each peer (default: 8)")
    parser.add_argument("--tokens", type=int, help="tokens of a stream (default: about three seconds of them)")
    parser.add_argument("--busy", type=int, default=1, help="busy processes (default: 1)")
    parser.add_argument("--model", choices=tuple(SHAPES), action="append", help="default: all; repeatable")
    parser.add_argument("--llama-bench", metavar="NAME=PROGRAM", action="append", default=[], help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    return parser.parse_args()


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Keep ``n`` CPUs busy meanwhile, each with a process that computes."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        sleep(0.3)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def stream(llm: Llama, n: int) -> float:
    """Tokens per second after the first one."""
    chunks = llm.stream([1], max_tokens=n, temperature=0, reuse=False)
    next(chunks)
    began = perf_counter()
    n_more = sum(len(chunk.tokens) for chunk in chunks)
    return n_more / (perf_counter() - began)


def bench(program: Path, model: Path, n: int) -> float:
    """Tokens per second of llama-bench with its default settings."""
    command = [str(program), "-m", str(model), "-p", "0", "-n", str(n), "-r", "1", "-o", "json"]
    return float(json.loads(run_command(command))[0]["samples_ts"][0])


def measure(name: str, path: Path, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Measure one model, and print what was found."""
    n = options.tokens or N_TOKENS[name]
    others = {"llama-bench": llama_bench()._program} | {
        label: Path(program) for label, _, program in (one.partition("=") for one in options.llama_bench)
    }
    with ExitStack() as stack:
        llm = stack.enter_context(Llama(path, n_ctx=2048))
        fixed = stack.enter_context(Llama(path, n_ctx=2048, reproducible=True))
        print(f"{describe(name, path)}; threads: {llm.threads}")
        peers: dict[str, Peer] = {"llama_cffi": lambda: stream(llm, n), "fixed threads": lambda: stream(fixed, n)}
        for label, program in others.items():
            peers[label] = lambda program=program: bench(program, path, n)  # type: ignore[misc]
        found: dict[str, list[tuple[float, float]]] = {label: [] for label in peers}
        for i in range(rounds + 1):
            quiet = {label: peer() for label, peer in peers.items()}
            with busy(options.busy):
                beside = {label: peer() for label, peer in peers.items()}
            if i:  # the first one warms up
                for label in peers:
                    found[label].append((quiet[label], beside[label]))
    for label, pairs in found.items():
        speed = statistics.median(quiet for quiet, _ in pairs)
        print(f"  {label:16} {speed:8.1f} tok/s alone; {_ratios([beside / quiet for quiet, beside in pairs])} of it")
    costs = [mine[0] / theirs[0] for mine, theirs in zip(found["llama_cffi"], found["fixed threads"], strict=True)]
    print(f"  alone, of the speed with a fixed number of threads: {_ratios(costs)}")
    return dict(found)


def _ratios(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    sys.exit(report(partial(measure_models, measure), parse()))
