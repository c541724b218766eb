"""Token selection: this package's beside llama.cpp's own chain, on the same rows of logits.

    python benchmarks/selection.py [--vocab 128256] [--json FILE]

Times are microseconds per token, the median of many. llama.cpp's figure is ``llama_sampler_apply`` alone:
``llama_sampler_sample`` first copies the row into 12-byte records, which is left out here. Ours includes the
call from Python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_cffi._native import ffi, guard, lib
from llama_cffi._native.selector import Selector, instruction_set, logprob, top_logprobs

Row = NDArray[np.float32]

# temperature, top_k, top_p, min_p
CHAINS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "temperature": (0.8, 0, 1.0, 0.0),
    "top-k 40, top-p 0.95, min-p 0.05": (0.8, 40, 0.95, 0.05),
    "top-p 0.95, no top-k": (0.8, 0, 0.95, 0.0),
    "min-p 0.05": (0.8, 0, 1.0, 0.05),
}


def make_rows(n_vocab: int) -> dict[str, Row]:
    """Random weights give the first kind of row, trained ones the second: a few tokens hold most of the mass."""
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 2, n_vocab)
    peaked = rng.normal(0, 2, n_vocab)
    peaked[rng.permutation(n_vocab)[:40]] += rng.gamma(4, 3, 40)
    return {"flat": flat.astype(np.float32), "peaked": peaked.astype(np.float32)}


def median_us(call: Callable[[], object], prepare: Callable[[], object] = lambda: None, seconds: float = 0.5) -> float:
    """Median time of a call in microseconds, after ``prepare``, which is not timed."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        prepare()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


class Chain:
    """llama.cpp's chain over an array that is filled from the row before each call."""

    def __init__(self, row: Row, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
        n = len(row)
        self.data = ffi.new("llama_token_data[]", n)
        self.array = ffi.new("llama_token_data_array *")
        self.records = np.frombuffer(ffi.buffer(self.data), dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])
        self.filled = np.zeros(n, dtype=self.records.dtype)
        self.filled["id"], self.filled["logit"] = np.arange(n), row
        self.chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in self._samplers(temperature, top_k, top_p, min_p):
            lib.llama_sampler_chain_add(self.chain, sampler)

    @staticmethod
    def _samplers(temperature: float, top_k: int, top_p: float, min_p: float) -> list[Any]:
        if temperature <= 0:
            return [lib.llama_sampler_init_greedy()]
        samplers = []
        if top_k > 0:
            samplers.append(lib.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            samplers.append(lib.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            samplers.append(lib.llama_sampler_init_min_p(min_p, 1))
        return [*samplers, lib.llama_sampler_init_temp(temperature), lib.llama_sampler_init_dist(1)]

    def fill(self) -> None:
        self.records[:] = self.filled
        self.array.data, self.array.size = self.data, len(self.records)
        self.array.selected, self.array.sorted = -1, False

    def apply(self) -> None:
        guard.sampler_apply(self.chain, self.array)

    def close(self) -> None:
        lib.llama_sampler_free(self.chain)


def main() -> None:
    parser = argparse.ArgumentParser(description="Token selection beside llama.cpp's chain.")
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 128_256], help="lengths of the rows")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()

    results = []
    print(f"instructions: {instruction_set()}; microseconds per token")
    print(f"{'vocab':>8} {'row':7} {'chain':34} {'ours':>8} {'llama.cpp':>10} {'ratio':>7}")
    for n_vocab in arguments.vocab:
        for kind, row in make_rows(n_vocab).items():
            at, to = ffi.from_buffer("float[]", row), np.empty_like(row)
            for name, parameters in CHAINS.items():
                selector = Selector(*parameters, seed=1)
                ours = median_us(lambda s=selector, at=at, n=n_vocab: s.select(at, n))  # type: ignore[misc]
                chain = Chain(row, *parameters)
                theirs = median_us(chain.apply, chain.fill)
                chain.close()
                results.append({"n_vocab": n_vocab, "row": kind, "chain": name, "us": ours, "llama_cpp_us": theirs})
                print(f"{n_vocab:8} {kind:7} {name:34} {ours:8.1f} {theirs:10.1f} {theirs / ours:6.1f}x")
            for name, call in {
                "logprob": lambda at=at, n=n_vocab: logprob(at, n, 5),
                "top_logprobs 20": lambda at=at, n=n_vocab: top_logprobs(at, n, 20),
                "a copy of the row": lambda row=row, to=to: np.copyto(to, row),
            }.items():
                us = median_us(call)
                results.append({"n_vocab": n_vocab, "row": kind, "chain": name, "us": us, "llama_cpp_us": None})
                print(f"{n_vocab:8} {kind:7} {name:34} {us:8.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"instructions": instruction_set(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
