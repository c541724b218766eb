"""One measurement of this package in a process of its own; `benchmarks/peers.py` runs it.

    python worker_llama_cffi.py MODEL TEST SETTINGS

TEST is ``greedy``, ``sampled`` or ``prompt`` (seconds of each repetition), ``split`` (where the time of a token
goes), ``paired`` (speed by that of llama-bench's loops in the same process), ``calls`` (seconds of single calls),
``batch`` (a list of prompts at once against one by one), ``structured`` (with and without schemas) or ``memory`` (says
``ready`` and waits to be measured). SETTINGS is a JSON object. Prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any
from unittest.mock import patch

from llama_cffi import Llama
from llama_cffi._native import ffi, lib, library_info
from llama_cffi.core.context import ContextOptions
from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.errors import IncompleteOutput

FIRST_TEXT_TOKEN = 300
SAMPLING = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(seed=1)}


def open_model(path: str, settings: dict[str, Any]) -> Llama:
    """A Llama with what the peers are given too, and the defaults of the package for the rest."""
    threads = settings["threads"]
    return Llama(
        path,
        driver=settings.get("driver", "inline"),
        n_ctx=settings["n_ctx"],
        n_batch=settings["n_batch"],
        n_ubatch=settings["n_ubatch"],
        n_threads=threads,
        n_threads_batch=threads,
        context_options=ContextOptions(type_k="f16", type_v="f16", flash_attn="auto"),
    )


def random_prompt(llm: Llama, n: int, rng: random.Random) -> list[int]:
    """Tokens that share no prefix with another prompt."""
    return [rng.randrange(FIRST_TEXT_TOKEN, llm.model.vocab.n_tokens) for _ in range(n)]


def stream(llm: Llama, sampling: SamplingParams, n: int) -> float:
    """Seconds for n tokens from an empty memory, the first one's prompt (BOS) included."""
    prompt = llm.tokenize("")
    llm.context.memory.clear(data=False)
    count = 0
    start = perf_counter()
    for chunk in llm.stream(prompt, max_tokens=n, sampling=sampling):
        count += len(chunk.tokens)
    seconds = perf_counter() - start
    if count != n:
        raise SystemExit(f"{count} tokens came instead of {n}")
    return seconds


def prompt(llm: Llama, n: int, rng: random.Random) -> float:
    """Seconds from a prompt of n tokens to the first token after it."""
    tokens = random_prompt(llm, n, rng)
    llm.context.memory.clear(data=False)
    start = perf_counter()
    result = llm.generate(tokens, max_tokens=1, sampling=SAMPLING["greedy"])
    seconds = perf_counter() - start
    if result.usage.cached_tokens:
        raise SystemExit("a prompt that should be new was in memory")
    return seconds


class Clock:
    """Adds up the time inside a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        start = perf_counter()
        try:
            return self._function(*args)
        finally:
            self.seconds += perf_counter() - start


def split(llm: Llama, settings: dict[str, Any]) -> dict[str, float]:
    """Microseconds per token inside the native call (decode and selection), and in Python between two of them.

    The clock itself costs about half a microsecond, which is counted as Python.
    """
    from llama_cffi._native import guard
    from llama_cffi.core.context import Context
    from llama_cffi.core.selection import TokenSelector

    n, results = settings["n_tokens"], {}
    decode, stepper = guard.decode, Context.stepper
    for name, sampling in SAMPLING.items():
        samples = []
        for _ in range(settings["reps"]):
            clocks = [Clock(decode)]

            def timed(self: Context, selector: TokenSelector, clocks: list[Clock] = clocks) -> Clock:
                clocks.append(Clock(stepper(self, selector)))
                return clocks[-1]

            with patch.object(Context, "stepper", timed), patch.object(guard, "decode", clocks[0]):
                total = stream(llm, sampling, n)
            native = sum(clock.seconds for clock in clocks)
            samples.append((native, total - native))
        for part, seconds in zip(("native", "python"), min(samples, key=sum), strict=True):
            results[f"{name}_{part}_us"] = 1e6 * seconds / n
    return results


def paired(llm: Llama, settings: dict[str, Any], rng: random.Random) -> dict[str, list[float]]:
    """Speed of each test by that of the C loops of ``loop.c`` just before and after it, on the same context."""
    loop = ctypes.CDLL(settings["loop"])
    context = ctypes.c_void_p(int(ffi.cast("intptr_t", llm.context.ptr)))

    def c_loop(name: str, n: int) -> float:
        function = getattr(loop, name)
        function.restype = ctypes.c_double
        seconds = float(function(context, n))
        if seconds < 0:
            raise SystemExit(f"{name} failed")
        return seconds

    n, n_prompt = settings["n_tokens"], settings["n_prompt"]
    tests: dict[str, tuple[str, int, Callable[[], float]]] = {
        "greedy": ("loop_tokens", n, lambda: stream(llm, SAMPLING["greedy"], n)),
        "sampled": ("loop_tokens", n, lambda: stream(llm, SAMPLING["sampled"], n)),
        "prompt": ("loop_prompt", n_prompt, lambda: prompt(llm, n_prompt, rng)),
    }
    ratios: dict[str, list[float]] = {name: [] for name in tests}
    for _ in range(settings["reps"]):
        for name, (function, count, test) in tests.items():
            before = c_loop(function, count)
            seconds = test()
            ratios[name].append((before + c_loop(function, count)) / 2 / seconds)
    return ratios


def calls(llm: Llama) -> dict[str, Any]:
    """How the library is bound, and seconds of one call into it of different kinds, the best of several repetitions."""
    info, context, n = library_info(), llm.context.ptr, 2000
    tests: dict[str, Callable[[], Any]] = {
        "getter": lambda: lib.llama_n_ctx(context),
        "struct": lambda: lib.llama_perf_context(context),
        "tokenize": lambda: llm.tokenize("the quick brown fox jumps over the lazy dog"),
    }
    results: dict[str, Any] = {"bound": f"{info.mode}, {info.helpers}"}
    for name, test in tests.items():
        samples = []
        for _ in range(5):
            start = perf_counter()
            for _ in range(n):
                test()
            samples.append((perf_counter() - start) / n)
        results[name] = [min(samples)]
    return results


def batch(llm: Llama, settings: dict[str, Any], rng: random.Random) -> dict[str, list[float]]:
    """Tokens per second of n prompts one by one and of the same prompts as a list."""
    n, n_prompts, length = settings["n_tokens"], settings["n_prompts"], settings["prompt_tokens"]
    results: dict[str, list[float]] = {"single": [], "list": []}
    for _ in range(settings["reps"]):
        for name, rates in results.items():
            # New prompts for each way: nothing of the other's is reused.
            prompts = [random_prompt(llm, length, rng) for _ in range(n_prompts)]
            llm.context.memory.clear(data=False)
            start = perf_counter()
            if name == "list":
                llm.generate(prompts, max_tokens=n, temperature=0.0)
            else:
                for one in prompts:
                    llm.generate(one, max_tokens=n, temperature=0.0)
            rates.append(n * n_prompts / (perf_counter() - start))
    return results


def structured(llm: Llama, settings: dict[str, Any]) -> dict[str, list[float]]:
    """Tokens per second after the first token, without a schema and with each of ``settings["schemas"]``, in turns."""
    rates: dict[str, list[float]] = {"": [], **{name: [] for name in settings["schemas"]}}
    for i in range(settings["reps"] + 1):
        for name, samples in rates.items():
            rate = decode_rate(llm, settings, settings["schemas"].get(name), seed=i)
            # In the first turn the schemas are compiled.
            if i:
                samples.append(rate)
    return rates


def decode_rate(llm: Llama, settings: dict[str, Any], schema: Any, seed: int) -> float:
    """Tokens per second from the first to the last of ``settings["n_tokens"]``."""
    n: int = settings["n_tokens"]
    llm.context.memory.clear(data=False)
    options: Any = {} if schema is None else {"schema": schema}
    stream = llm.stream(settings["prompt"], max_tokens=n, sampling=SamplingParams(seed=seed), **options)
    first = count = 0
    start = perf_counter()
    try:
        for chunk in stream:
            count += len(chunk.tokens)
            if not first and count:
                first, start = count, perf_counter()
    except IncompleteOutput as cut:
        # The schemas are such that nothing is complete after so few tokens.
        count = cut.completion.usage.completion_tokens
    if count != n:
        raise SystemExit(f"{count} tokens came instead of {n}")
    return (n - first) / (perf_counter() - start)


def main() -> None:
    path, test, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    rng = random.Random(settings["seed"])
    with open_model(path, settings) as llm:
        result: Any
        if test == "memory":
            prompt(llm, settings["n_prompt"], rng)
            stream(llm, SAMPLING["sampled"], 16)
            print("ready", flush=True)
            sys.stdin.readline()
            return
        if test == "split":
            stream(llm, SAMPLING["greedy"], 16)
            result = split(llm, settings)
        elif test == "paired":
            stream(llm, SAMPLING["greedy"], 16)
            result = paired(llm, settings, rng)
        elif test == "calls":
            result = calls(llm)
        elif test == "batch":
            stream(llm, SAMPLING["greedy"], 16)
            result = batch(llm, settings, rng)
        elif test == "structured":
            result = structured(llm, settings)
        elif test == "prompt":
            prompt(llm, settings["n_prompt"], rng)
            result = [prompt(llm, settings["n_prompt"], rng) for _ in range(settings["reps"])]
        else:
            stream(llm, SAMPLING[test], 4)
            result = [stream(llm, SAMPLING[test], settings["n_tokens"]) for _ in range(settings["reps"])]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
