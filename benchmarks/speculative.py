"""What drafts gain: tokens per second with and without, beside llama-cpp-python's prompt lookup on the same library.

    python benchmarks/speculative.py [--quick] [--file MODEL.gguf [--draft DRAFT.gguf]] [--json FILE]

Both ways in turn in one process of each peer, greedy, from an empty memory; a gain is taken within a pair. Everybody
looks for the last 2 tokens and drafts 10. The models with random weights fall into loops under greedy choice, which
prompt lookup finds: their figures say what the checking costs and what a good guess is worth, and nothing about real
texts. For those name a model, and a smaller one with its vocabulary for the row "draft model".
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import PythonPeer, Settings, llama_cpp_python, package, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402

LOOKUP = {"n_draft": 10, "ngram": 2, "prompt_tokens": 64}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure speculative decoding beside llama-cpp-python's.")
    parser.add_argument("--quick", action="store_true", help="two repetitions on the small model")
    parser.add_argument("--file", type=Path, metavar="GGUF", help="measure this model instead of the random ones")
    parser.add_argument("--draft", type=Path, metavar="GGUF", help="its draft model")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PYTHON", help="interpreter with llama-cpp-python"
    )
    options = parser.parse_args()
    if options.draft is not None and options.file is None:
        parser.error("--draft needs the --file that it drafts for")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    results: dict[str, Any] = {}
    info = package_info()
    threads = options.threads or info["threads"]
    other = llama_cpp_python(options.peer_python)
    peers: list[PythonPeer] = [package()]
    if isinstance(other, str):
        print(f"llama-cpp-python: not measured ({other})")
    else:
        peers.append(other[0])
    print(f"llama_cffi {info['version']}, llama.cpp {info['commit']}, {threads} threads")
    for name, path in _models(options).items():
        settings = Settings(threads=threads, n_tokens=128, reps=2 if options.quick else 10)
        extra: dict[str, Any] = {**asdict(settings), **LOOKUP, "text": options.file is not None}
        print(f"\n{describe(name, path) if name in SHAPES else path}")
        print(f"  {'peer':<18}{'drafts':<16}{'tokens/s':>10}  {'of none':<10}{'quartiles':<18}accepted")
        results[name] = {}
        for peer in peers:
            draft = str(options.draft) if options.draft is not None and peer is peers[0] else None
            samples = peer.call("speculative", path, {**extra, "draft": draft})
            results[name][peer.name] = samples
            for way, rates in samples["rates"].items():
                print(f"  {peer.name:<18}{_line(way, rates, samples)}")
    return results


def _models(options: argparse.Namespace) -> dict[str, Path]:
    if options.file is not None:
        return {options.file.name: options.file}
    return {name: model_file(name, options.cache) for name in (("15M",) if options.quick else SHAPES)}


def _line(way: str, rates: list[float], samples: dict[str, Any]) -> str:
    line = f"{way:<16}{statistics.median(rates):>10.1f}"
    if way == "none":
        return line
    ratios = [rate / plain for rate, plain in zip(rates, samples["rates"]["none"], strict=True)]
    low, high = spread(ratios)
    quartiles = f"{low:.2f} to {high:.2f}"
    acceptance = samples.get("acceptance", {}).get(way)
    accepted = f"{acceptance:.0%}" if acceptance is not None else ""
    return f"{line}  {statistics.median(ratios):<10.2f}{quartiles:<18}{accepted}"


if __name__ == "__main__":
    options = parse()
    sys.exit(report(run, options))
