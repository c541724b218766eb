"""What decoding a few rows at once takes: milliseconds for 1 to 16 rows, by type of the weights and by library.

    python benchmarks/rows.py [--quick] [--library NAME=LIBLLAMA ...] [--weights TYPE ...] [--json FILE]
    python benchmarks/rows.py --sweep [SWITCH ...]

Every row has logits, as with parallel callers or drafts that are checked. The limit of a decode is reading the weights
once, which is measured beside it. Several libraries (``--library``, a path to libllama.so each; the first one is what
the others are compared with) run in processes of their own and take turns decode by decode, so a machine whose speed
drifts favors none.

Times are the least of all rounds: other processes only add to them. CPU time (``--cpu``) is less disturbed by a busy
machine, but it counts threads that wait for each other.

``--sweep`` builds a library for each switch of ggml that matters here (benchmarks/sweep.py), with and without this
repository's kernels, and compares them: some minutes of compiling for each, the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compiler import compile_c  # noqa: E402
from benchmarks.models import ROW_SHAPES, WEIGHTS, weights_file  # noqa: E402
from benchmarks.peers import BenchmarkError, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402
from benchmarks.sweep import SWITCHES, build_all  # noqa: E402

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
QUICK_ROWS = (1, 2, 4, 8)
PROMPT = 512
DEFAULT = "bundled"
MODELS = tuple(ROW_SHAPES)
# Files of the larger shape take gigabytes: what most people run is enough.
WEIGHTS_OF = {"160M": WEIGHTS, "1B": ("Q8_0", "Q4_K_M")}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure decodes of 1 to 16 rows.")
    parser.add_argument("--quick", action="store_true", help="few rounds, few sizes, 160M in Q8_0 alone")
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all; repeatable")
    parser.add_argument("--weights", choices=WEIGHTS, action="append", help="default: all, of 1B two; repeatable")
    libraries = parser.add_mutually_exclusive_group()
    libraries.add_argument("--library", metavar="NAME=LIBLLAMA", action="append", default=[], help="repeatable")
    libraries.add_argument(
        "--sweep", nargs="*", metavar="SWITCH", help=f"build and compare libraries; default: {' '.join(SWITCHES)}"
    )
    parser.add_argument("--rows", type=int, action="append", help=f"default: {ROWS}; repeatable")
    parser.add_argument("--rounds", type=int, help="default: 20")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--prompt", action="store_true", help=f"a prompt of {PROMPT} tokens, too")
    parser.add_argument("--cpu", action="store_true", help="show CPU time instead of time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.quick else 20)
    options.model = options.model or (["160M"] if options.quick else list(MODELS))
    options.weights = options.weights or (["Q8_0"] if options.quick else None)
    options.rows = options.rows or list(QUICK_ROWS if options.quick else ROWS)
    for name in options.sweep or ():
        if name not in SWITCHES:
            parser.error(f"--sweep {name}: it is one of {', '.join(SWITCHES)}")
    options.libraries = dict(item.partition("=")[::2] for item in options.library) or {DEFAULT: ""}
    for name, path in options.libraries.items():
        if path and not Path(path).is_file():
            parser.error(f"--library {name}: there is no file {path}")
    return options


class Library:
    """A worker process with one libllama."""

    def __init__(self, stack: ExitStack, path: str, model: Path, settings: dict[str, Any]) -> None:
        env = {**os.environ, **({"LLAMA_CFFI_LIB": str(Path(path).resolve())} if path else {})}
        command = [sys.executable, str(Path(__file__).with_name("worker_rows.py")), str(model), json.dumps(settings)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process: subprocess.Popen[str] = subprocess.Popen(command, env=env, text=True, **pipes)  # type: ignore[call-overload]
        stack.callback(self._close)

    def _close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, *question: str | int) -> list[list[float]]:
        """The samples of one question."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise BenchmarkError("a worker ended; run benchmarks/worker_rows.py by hand to see why")
        samples: list[list[float]] = json.loads(answer)
        return samples


def measure(options: argparse.Namespace, model: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The samples of each library and size, and of reading the file."""
    times = 1 if options.quick else 2
    questions: list[tuple[str | int, ...]] = [("rows", n, times) for n in options.rows]
    questions += [("prompt", PROMPT, 1)] if options.prompt else []
    samples: dict[str, dict[str, list[list[float]]]] = {name: defaultdict(list) for name in options.libraries}
    with ExitStack() as stack:
        workers = {name: Library(stack, path, model, settings) for name, path in options.libraries.items()}
        for worker in workers.values():
            for question in questions:
                worker.ask(*question)  # graphs and pages that are new
        for i in range(options.rounds):
            order = list(workers.items())
            for question in questions:
                for name, worker in order if i % 2 == 0 else reversed(order):
                    samples[name][f"{question[0]} {question[1]}"] += worker.ask(*question)
        read = next(iter(workers.values())).ask("read", 3 * times)
    return {"samples": samples, "read": read}


def table(results: dict[str, Any], options: argparse.Namespace) -> str:
    """The least time of each size and library, by that of one row, and by that of the first library."""
    which = 1 if options.cpu else 0

    def least(name: str, size: str) -> float:
        return 1e3 * float(min(sample[which] for sample in results["samples"][name][size]))

    names = list(results["samples"])
    width = max(12, *(len(name) + 2 for name in names))
    head = "".join(
        f"{name:>{width}} {'of one':>8}" + (f"{'of ' + names[0]:>14}" if name != names[0] else "") for name in names
    )
    lines = [f"  {'rows':<12}{head}"]
    for size in results["samples"][names[0]]:
        line = f"  {size.removeprefix('rows '):<12}"
        for name in names:
            milliseconds = least(name, size)
            of_one = (
                f"{milliseconds / least(name, 'rows 1'):.2f}" if size.startswith("rows") and 1 in options.rows else ""
            )
            line += f"{milliseconds:>{width}.2f} {of_one:>8}"
            if name != names[0]:
                pairs = zip(results["samples"][name][size], results["samples"][names[0]][size], strict=True)
                ratio = statistics.median(own[which] / other[which] for own, other in pairs)
                line += f"{milliseconds / least(names[0], size):>7.2f} {ratio:>6.2f}"
        lines.append(line)
    read = 1e3 * min(sample[0] for sample in results["read"])
    return "\n".join([*lines, f"  reading as many bytes once: {read:.2f} ms"])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    if options.sweep is not None:
        options.libraries = build_all(options.sweep or tuple(SWITCHES))
    info = package_info()
    threads = options.threads or info["threads"]
    results: dict[str, Any] = {"threads": threads, "libraries": options.libraries, "models": {}}
    what = "CPU milliseconds" if options.cpu else "milliseconds"
    print(f"llama.cpp {info['commit']}, {threads} threads; {what}, least of {options.rounds} rounds")
    if len(options.libraries) > 1:
        print("beside it: the ratio of the least times, and the median of the ratios of decodes that took turns")
    with tempfile.TemporaryDirectory() as folder:
        reader = compile_c("read.c", Path(folder) / "read.so", "-shared", "-fPIC", "-O2", "-pthread")
        settings = {"threads": threads, "reader": str(reader)}
        for shape in options.model:
            for weights in options.weights or WEIGHTS_OF[shape]:
                model = weights_file(shape, weights, options.cache)
                measured = measure(options, model, settings)
                print(f"\n{shape} {weights}, {model.stat().st_size / 1e6:.0f} MB")
                print(table(measured, options), flush=True)
                results["models"][f"{shape} {weights}"] = measured
    return results


if __name__ == "__main__":
    sys.exit(report(run, parse()))
