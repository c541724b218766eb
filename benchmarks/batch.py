"""What a list of prompts gains over the same prompts one by one.

    python benchmarks/batch.py [--quick] [--json FILE]

Random prompts that share nothing, 64 tokens each, greedy; both ways in turn in one process. The gain is the weights
being read once for all sequences of a step, so it grows with the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import BenchmarkError, Settings, package, package_info  # noqa: E402

PROMPT_TOKENS = 16


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure generate([...]) beside generate() one by one.")
    parser.add_argument("--quick", action="store_true", help="one repetition on the small model")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    options = parser.parse_args()
    try:
        results = run(options)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    results: dict[str, Any] = {}
    threads = options.threads or package_info()["threads"]
    for name in ("15M",) if options.quick else SHAPES:
        path = model_file(name, options.cache)
        settings = Settings(threads=threads, n_tokens=64, reps=1 if options.quick else 5)
        print(f"{describe(name, path)}; {threads} threads")
        results[name] = {}
        for n_prompts in (1, 2, 4, 8):
            extra = {"n_prompts": n_prompts, "prompt_tokens": PROMPT_TOKENS}
            samples = package().call("batch", path, {**asdict(settings), **extra})
            ratios = [many / one for many, one in zip(samples["list"], samples["single"], strict=True)]
            low, high = spread(ratios)
            print(f"  {n_prompts} prompts: {statistics.median(ratios):.2f} times one by one ({low:.2f} to {high:.2f})")
            results[name][n_prompts] = samples
    return results


if __name__ == "__main__":
    sys.exit(main())
