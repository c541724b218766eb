"""How much of libllama's speed reaches Python, and what Python costs on top.

    python benchmarks/decode.py [--quick] [--json FILE]

Side by side, in turn, in fresh processes with the same settings: this package, llama-bench from the same build
(``python scripts/build_libllama.py --tool llama-bench``), and llama-cpp-python on the same library when an
interpreter has it (``CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install llama-cpp-python==0.3.36``; name another interpreter
with ``--peer-python``). Models with random weights are written into ``build/benchmarks`` on the first run.

llama-bench computes 128 tokens and chooses none; the Python peers stream text, from a prompt of one token, with an
empty memory. Only ratios of one run mean anything: compare no numbers of two runs, and none of a busy machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import memory  # noqa: E402
from benchmarks.compare import Contender, measure, spread, table  # noqa: E402
from benchmarks.compiler import compile_c  # noqa: E402
from benchmarks.models import SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import (  # noqa: E402
    PythonPeer,
    Settings,
    llama_bench,
    llama_cpp_python,
    package,
    package_info,
    package_with_thread,
)
from benchmarks.report import report  # noqa: E402

REPS = {"15M": 5, "160M": 2}
PAIRS = {"15M": 100, "160M": 12}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure llama_cffi beside llama-bench and llama-cpp-python, on the same library."
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds on the small model: does it run at all?")
    parser.add_argument("--rounds", type=int, help="rounds of all peers (default: 10)")
    parser.add_argument("--model", choices=tuple(SHAPES), action="append", help="default: all; repeatable")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PYTHON", help="interpreter with llama-cpp-python"
    )
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 2 if options.quick else 10
    if options.model is None:
        options.model = ["15M"] if options.quick else list(SHAPES)
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; print as it comes and return it."""
    results: dict[str, Any] = {}
    own, threaded, bench = package(), package_with_thread(), llama_bench()
    other = llama_cpp_python(options.peer_python)
    info = package_info()
    threads = options.threads if options.threads is not None else info["threads"]
    peers: list[PythonPeer] = [own, threaded]
    if isinstance(other, str):
        note = f"not measured ({other})"
    else:
        peers.append(other[0])
        note = other[1]
    results["machine"] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }
    results["versions"] = {"llama_cffi": info["version"], "llama.cpp": info["commit"], "llama-cpp-python": note}
    results["models"] = {}

    machine = results["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, {threads} threads, Python {machine['python']}")
    print(f"llama_cffi {info['version']}, llama.cpp {info['commit']}, llama-cpp-python {note}")
    if machine["load"] is not None and machine["load"] > 0.5:
        print(f"The machine is busy (load {machine['load']:.1f}): these numbers will be noise.")

    rounds = options.rounds
    for name in options.model:
        progress("writing the model")
        path = model_file(name, options.cache)
        settings = Settings(threads=threads, reps=1 if options.quick else REPS[name])
        n, n_prompt = settings.n_tokens, settings.n_prompt
        generation = [Contender(bench, "greedy", f"tg{n}, choosing nothing")]
        generation += [Contender(peer, "greedy", f"tg{n}, greedy") for peer in peers]
        generation += [Contender(peer, "sampled", f"tg{n}, default sampling") for peer in peers]
        prompt = [Contender(bench, "prompt", f"pp{n_prompt}")]
        prompt += [Contender(peer, "prompt", f"pp{n_prompt}") for peer in peers]
        rows = [
            *measure(generation, path, settings, rounds, progress),
            *measure(prompt, path, settings, rounds, progress),
        ]
        progress("in turn with C, in one process")
        with tempfile.TemporaryDirectory() as folder:
            loop = compile_c("loop.c", Path(folder) / "loop.so", "-shared", "-fPIC")
            reps = 2 if options.quick else PAIRS[name]
            given = asdict(replace(settings, reps=reps)) | {"loop": str(loop)}
            paired = {peer.name: peer.call("paired", path, given) for peer in (own, threaded)}
        progress("where a token's time goes")
        split = own.call("split", path, asdict(replace(settings, reps=2 if options.quick else 10)))
        progress("memory")
        sizes = _memory(peers, path, settings)
        progress("")
        print(f"\n{describe(name, path)}; {rounds} rounds")
        print(table(rows, bench.name))
        for peer, ratios in paired.items():
            print(f"  {peer} by llama-bench's loop in the same process, in turn ({reps} pairs):")
            for kind, label in (
                ("greedy", f"tg{n}, greedy"),
                ("sampled", f"tg{n}, default sampling"),
                ("prompt", prompt[0].title),
            ):
                first, third = spread(ratios[kind])
                print(f"    {label:<40}{statistics.median(ratios[kind]):<16.3f}{first:.3f} to {third:.3f}")
        for kind, label in (("greedy", "greedy"), ("sampled", "default sampling")):
            parts = ", ".join(f"{part} {split[f'{kind}_{part}_us']:.1f}" for part in ("native", "python"))
            print(f"  microseconds per token, {label}: {parts}")
        print(f"  memory: {sizes['libllama']:.1f} MiB for libllama in a C program; above that", end=" ")
        print(", ".join(f"{peer.name} {sizes[peer.name] - sizes['libllama']:.1f} MiB" for peer in peers))
        results["models"][name] = {
            "settings": asdict(settings),
            "rows": [asdict(row) for row in rows],
            "paired_ratios": paired,
            "split_us": split,
            "memory_mib": sizes,
        }

    progress("import time")
    results["import_seconds"] = imports = import_times(3 if options.quick else 15)
    results["bare_python_numpy_mib"] = memory.bare_python()
    progress("")
    print(f"\nAn interpreter with numpy alone: {results['bare_python_numpy_mib']:.1f} MiB")
    for statement, (median, quartiles) in imports.items():
        print(
            f"{statement}: {1000 * median:.0f} ms more than import numpy "
            f"({1000 * quartiles[0]:.0f} to {1000 * quartiles[1]:.0f})"
        )
    return results


def _memory(peers: list[PythonPeer], model: Path, settings: Settings) -> dict[str, float]:
    sizes = {"libllama": memory.baseline(model, settings, memory.PACKAGE_N_SEQ_MAX)}
    for peer in peers:
        sizes[peer.name] = memory.worker(peer, model, settings)
    return sizes


def import_times(repetitions: int) -> dict[str, tuple[float, tuple[float, float]]]:
    """Seconds by which a process that imports more than numpy takes longer: median and quartiles."""
    statements = {
        "import llama_cffi": "import numpy, llama_cffi",
        "from llama_cffi import Llama": "import numpy; from llama_cffi import Llama",
    }
    differences: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(repetitions):
        numpy_alone = _process_seconds("import numpy")
        for name, code in statements.items():
            differences[name].append(_process_seconds(code) - numpy_alone)
    return {name: (statistics.median(values), spread(values)) for name, values in differences.items()}


def _process_seconds(code: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return perf_counter() - start


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def progress(text: str) -> None:
    """Say on a terminal what is going on, in one line that goes away."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(report(run, parse()))
