"""What a process of its own costs: a lone stream of an isolated model beside one of the same model in this process.

    python benchmarks/isolation.py [--quick] [--model 15M|160M] [--json FILE]

The two take turns, with the same settings, and the ratio is that of each pair of streams. Also: starting, a call
without a text, and arrays and states through the socket. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import SHAPES, describe, measure_models  # noqa: E402
from benchmarks.report import report  # noqa: E402
from llama_cffi import Llama  # noqa: E402

N_TOKENS = {"15M": 150, "160M": 40}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure an isolated model beside one in this process.")
    parser.add_argument("--quick", action="store_true", help="2 rounds on the small model: does it run at all?")
    parser.add_argument("--rounds", type=int, default=8, help="streams of each (default: 8)")
    parser.add_argument("--model", choices=tuple(SHAPES), action="append", help="default: all; repeatable")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    return parser.parse_args()


def per_token(llm: Llama, n: int, *, stream: bool) -> float:
    """Seconds of a token after the first one."""
    if not stream:
        began = perf_counter()
        llm.generate([1], max_tokens=n, temperature=0, reuse=False)
        return (perf_counter() - began) / n
    chunks = llm.stream([1], max_tokens=n, temperature=0, reuse=False)
    next(chunks)
    began = perf_counter()
    n_more = sum(len(chunk.tokens) for chunk in chunks)
    return (perf_counter() - began) / max(1, n_more)


def measure(name: str, path: Path, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Measure one model, and print what was found."""
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {"n_ctx": 512, "n_threads": options.threads}
    began = perf_counter()
    with Llama(path, **settings) as here:
        found["open"] = [perf_counter() - began]
        began = perf_counter()
        with Llama(path, isolate=True, **settings) as there:
            found["open"].append(perf_counter() - began)
            for kind in ("stream", "generate"):
                pairs = []
                for i in range(rounds + 1):
                    pair = [per_token(llm, N_TOKENS[name], stream=kind == "stream") for llm in (here, there)]
                    pairs += [pair] if i else []  # the first one warms up
                found[kind] = pairs
            found["cpu"] = cpu_per_token(there, N_TOKENS[name])
            there.generate([1] * 500, max_tokens=1)
            here.generate([1] * 500, max_tokens=1)
            found["call"] = [timed(lambda: there._runtime.engine.slots(), 200)]
            found["state"] = [len(there.state_bytes()), timed(there.state_bytes, 3), timed(here.state_bytes, 3)]
    print(describe(name, path))
    for kind in ("stream", "generate"):
        ratios = [mine / theirs for mine, theirs in found[kind]]
        costs = [(theirs - mine) * 1e6 for mine, theirs in found[kind]]
        print(
            f"  {kind:8}  {1 / statistics.median(pair[0] for pair in found[kind]):7.1f} tok/s in this process; "
            f"isolated {statistics.median(ratios):.3f} of it ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"{statistics.median(costs):.0f} us more for a token"
        )
    print(f"  reading   {found['cpu'] * 1e6:7.0f} us of this process's processor time for a token")
    size, isolated, own = found["state"]
    print(f"  a call    {found['call'][0] * 1e6:7.0f} us")
    print(f"  a state of {size / 1e6:.1f} MB: {isolated * 1e3:.1f} ms, in this process {own * 1e3:.1f} ms")
    print(f"  opening   {found['open'][0]:.2f} s in this process, {found['open'][1]:.2f} s isolated")
    return found


def cpu_per_token(llm: Llama, n: int) -> float:
    """Processor seconds of this process for a token that it streams from another one, which others do not change."""
    chunks = llm.stream([1], max_tokens=n, temperature=0, reuse=False)
    next(chunks)
    began = process_time()
    return sum(1 for _ in chunks) and (process_time() - began) / n


def timed(call: Any, n: int) -> float:
    """The median of the seconds of a call."""
    seconds = []
    for _ in range(n):
        began = perf_counter()
        call()
        seconds.append(perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(report(partial(measure_models, measure), parse()))
