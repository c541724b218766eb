"""What it costs to bind a library without a compiler.

    python benchmarks/binding.py [--quick] [--json FILE]

The same library in three ways: through the compiled extension (API mode), through declarations with the library's own
layouts (ABI mode) with the compiled helpers, and ABI mode in Python alone, as ``LLAMA_CFFI_BUILD=none`` installs it.
A token's cost is measured against the C loop of ``loop.c`` in the same process, in turn; the ways take turns too, in
fresh processes. Only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.compiler import compile_c  # noqa: E402
from benchmarks.models import SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import BenchmarkError, PythonPeer, Settings, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402

WORKER = "worker_llama_cffi.py"
WAYS = (
    PythonPeer("API mode", WORKER, LLAMA_CFFI_BINDING="api"),
    PythonPeer("ABI mode, C helpers", WORKER, LLAMA_CFFI_BINDING="abi"),
    PythonPeer("ABI mode, Python only", WORKER, LLAMA_CFFI_BINDING="abi", LLAMA_CFFI_HELPERS="none"),
)
BOUND = dict(zip((way.name for way in WAYS), ("api, compiled", "abi, compiled", "abi, python"), strict=True))
CALLS = {"getter": "llama_n_ctx", "struct": "llama_perf_context, by value", "tokenize": "Vocab.tokenize, 9 words"}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare API mode and ABI mode, with and without the C helpers.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all?")
    parser.add_argument("--rounds", type=int, help="rounds of all three ways (default: 8)")
    parser.add_argument("--model", choices=tuple(SHAPES), default="15M")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 8)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; what was measured comes back."""
    threads = options.threads if options.threads is not None else package_info()["threads"]
    path = model_file(options.model, options.cache)
    settings = asdict(Settings(threads=threads, reps=2 if options.quick else 10, n_prompt=128))
    samples: dict[str, dict[str, list[float]]] = {way.name: {} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        settings["loop"] = str(compile_c("loop.c", Path(folder) / "loop.so", "-shared", "-fPIC"))
        for i in range(options.rounds):
            for way in WAYS if i % 2 == 0 else reversed(WAYS):
                found = way.call("paired", path, settings) | way.call("calls", path, settings)
                if (bound := found.pop("bound")) != BOUND[way.name]:
                    raise BenchmarkError(f"{way.name} ran with {bound} instead of {BOUND[way.name]}")
                for name, values in found.items():
                    samples[way.name].setdefault(name, []).extend(values)

    print(f"{describe(options.model, path)}; {threads} threads, {options.rounds} rounds\n")
    print(f"{'':<32}" + "".join(f"{way.name:>24}" for way in WAYS))
    for name, label in CALLS.items():
        fastest = [min(samples[way.name][name]) for way in WAYS]
        print(f"{label:<32}" + "".join(f"{f'{1e6 * seconds:.2f} us':>24}" for seconds in fastest))
    base = samples[WAYS[0].name]
    for kind, label in (("greedy", "tg128, greedy"), ("sampled", "tg128, default sampling"), ("prompt", "pp128")):
        cells = [_ratio(samples[way.name][kind], base[kind]) for way in WAYS]
        print(f"{label + ', of API mode':<32}" + "".join(f"{cell:>24}" for cell in cells))
    return {"settings": settings, "rounds": options.rounds, "samples": samples}


def _ratio(own: list[float], base: list[float]) -> str:
    """Median speed by the median of API mode, with the quartiles of the former."""
    reference = statistics.median(base)
    first, third = (value / reference for value in spread(own))
    return f"{statistics.median(own) / reference:.3f} ({first:.2f}-{third:.2f})"


if __name__ == "__main__":
    sys.exit(report(run, parse()))
