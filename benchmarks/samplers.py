"""What a sampler written in Python adds to a token: the same chain on the same rows, with it and without.

    python benchmarks/samplers.py [--vocab 32000 128256] [--seconds 0.5] [--json FILE]

Times are microseconds per ``SamplerChain.sample``, which chooses from a decoded row and accepts: the median of many,
taken in turns. The model is tiny, of random weights, so that a vocabulary of any size can be tried. ``empty``
does nothing, ``touches`` writes to ten logits without looking for their tokens, so that all logits are checked after it
and hardly any of the time is its own, ``forbids`` looks for ten tokens; ``first`` stands before top-k and gets the
whole vocabulary, ``after top-k`` gets 40 candidates.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import report
from llama_cffi import Batch, Context, ContextOptions, Model, SamplerChain
from llama_cffi.samplers import Candidates, Dist, MinP, PythonSampler, Sampler, Temperature, TopK, TopP
from tests.support.random_model import TINY, write_random_model

TAIL: tuple[Sampler, ...] = (TopP(0.95), MinP(0.05), Temperature(0.8), Dist(1))


class Empty(PythonSampler):
    """Does nothing."""

    def apply(self, candidates: Candidates) -> None:
        pass


class Touches(PythonSampler):
    """Changes the first ten."""

    def apply(self, candidates: Candidates) -> None:
        candidates.logits[:10] = -1.0


class Forbids(PythonSampler):
    """Forbids ten tokens."""

    def __init__(self, n_vocab: int) -> None:
        self.forbidden = np.zeros(n_vocab, dtype=bool)
        self.forbidden[100:110] = True

    def apply(self, candidates: Candidates) -> None:
        candidates.logits[self.forbidden[candidates.ids]] = -np.inf


def chains(n_vocab: int) -> dict[str, tuple[Sampler, ...]]:
    """The native chain first."""
    return {
        "native": (TopK(40), *TAIL),
        "empty, first": (Empty(), TopK(40), *TAIL),
        "empty, after top-k": (TopK(40), Empty(), *TAIL),
        "touches, first": (Touches(), TopK(40), *TAIL),
        "forbids, first": (Forbids(n_vocab), TopK(40), *TAIL),
        "forbids, after top-k": (TopK(40), Forbids(n_vocab), *TAIL),
    }


@contextmanager
def decoded(n_vocab: int) -> Iterator[Context]:
    """A context with one row of logits."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_model(Path(folder) / "model.gguf", replace(TINY, n_vocab=n_vocab), weights="f32")
        with Model(path) as model, Context(model, ContextOptions(n_ctx=32, n_batch=8, n_threads=1)) as context:
            batch = Batch(1)
            batch.add(1, 0, output=True)
            context.decode(batch)
            yield context


def medians(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """Median microseconds of each call; they take turns, so that a slow moment hits them all."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[0]) < 20:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1e6 for taken in times]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns its rows."""
    rows = []
    print(f"{'vocab':>8}  {'chain':22} {'us per token':>12} {'over native':>12}")
    for n_vocab in options.vocab:
        with decoded(n_vocab) as context:
            made = {name: SamplerChain(steps, context.model.vocab) for name, steps in chains(n_vocab).items()}
            times = medians([lambda c=chain: c.sample(context) for chain in made.values()], options.seconds)  # type: ignore[misc]
        for name, us in zip(made, times, strict=True):
            rows.append({"n_vocab": n_vocab, "chain": name, "us": us, "over_native_us": us - times[0]})
            print(f"{n_vocab:8}  {name:22} {us:12.1f} {us - times[0]:12.1f}")
    return {"results": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description="A sampler in Python beside a native chain.")
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 128_256], help="sizes of the vocabulary")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each chain")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return report(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
