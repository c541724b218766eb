"""Texts per second that become vectors, beside llama-server on the same library.

    python benchmarks/embed.py [--quick] [--json FILE]

64 texts of 64 tokens through an encoder of 12 layers, 384 wide, pooled by mean, once with its weights in F16 and once
in Q8_0; both in turn, round by round, with a pause before each turn. Time is taken from the list of texts to the list
of vectors: of llama-server that is one request with all texts and its answer as numbers. It runs once with the slots
that it takes itself, and once with eight.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import encoder_file  # noqa: E402
from benchmarks.peers import BenchmarkError, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402
from benchmarks.server import PAUSE, server_program  # noqa: E402
from llama_cffi import Llama  # noqa: E402
from tests.support.llama_server import LlamaServer, ServerError, running_server  # noqa: E402

if TYPE_CHECKING:
    from tests.support.random_model import WeightType

N_TEXTS, N_TOKENS = 64, 64
WEIGHTS: tuple[WeightType, ...] = ("f16", "q8_0")
OURS = "llama_cffi"
SERVERS: dict[str, tuple[object, ...]] = {
    "llama-server": (),
    "llama-server, 8 slots": ("--parallel", 8, "--ctx-size", 8 * 512),
}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure Llama.embed beside llama-server's /v1/embeddings.")
    parser.add_argument("--quick", action="store_true", help="one round of 8 texts")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the model is")
    options = parser.parse_args()
    options.n_texts = 8 if options.quick else N_TEXTS
    options.rounds = 1 if options.quick else options.rounds
    return report(run, options)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    threads = options.threads or package_info()["threads"]
    speeds = {}
    for weights in WEIGHTS:
        path = encoder_file(options.cache, weights)
        print(f"{options.n_texts} texts of {N_TOKENS} tokens, {path.name}; {threads} threads")
        speeds[weights] = measure(options, path, threads)
        show(speeds[weights])
    return {"threads": threads, "n_texts": options.n_texts, "n_tokens": N_TOKENS, "texts_per_second": speeds}


def measure(options: argparse.Namespace, path: Path, threads: int) -> dict[str, list[float]]:
    """Texts per second of everybody, by round."""
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        llm = stack.enter_context(Llama(path, n_threads=threads, n_threads_batch=threads))
        texts = random_texts(llm, options.n_texts)
        contenders: dict[str, Callable[[], Any]] = {OURS: lambda: llm.embed(texts)}
        for i, (name, extra) in enumerate(SERVERS.items()):
            server = start_server(stack, path, logs / str(i), "--threads", threads, *extra)
            contenders[name] = lambda server=server: server.post("/v1/embeddings", {"input": texts})  # type: ignore[misc]
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        for contender in contenders.values():
            contender()  # makes the contexts, and their graphs
        for i in range(options.rounds):
            # There and back, so that nobody always comes after the same one.
            for name in samples if i % 2 == 0 else reversed(samples):
                sleep(PAUSE)
                start = perf_counter()
                contenders[name]()
                samples[name].append(options.n_texts / (perf_counter() - start))
    return samples


def show(samples: dict[str, list[float]]) -> None:
    """Print a line for everybody."""
    for name, speeds in samples.items():
        line = f"  {name:<24}{statistics.median(speeds):>8.1f} texts/s"
        if name != OURS:
            ratios = [ours / theirs for ours, theirs in zip(samples[OURS], speeds, strict=True)]
            low, high = spread(ratios)
            line += f"   {OURS} {statistics.median(ratios):.2f} times that ({low:.2f} to {high:.2f})"
        print(line)


def start_server(stack: ExitStack, path: Path, log: Path, *extra: object) -> LlamaServer:
    """A llama-server that embeds, until the stack is closed."""
    program = server_program()
    try:
        return stack.enter_context(
            running_server(program, path, "--embedding", "--pooling", "mean", *extra, log=log, seconds=600)
        )
    except ServerError as error:
        raise BenchmarkError(str(error)) from error


def random_texts(llm: Llama, count: int) -> list[str]:
    """Texts of exactly N_TOKENS tokens, special ones included, made of words that are one token each."""
    vocab = llm.model.vocab
    words = [text[1:] for text in map(vocab.text, range(vocab.n_tokens)) if text[:1] == "\u2581" and text[1:].isalpha()]
    words = [word for word in words if word.isascii() and word.islower()]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=N_TOKENS - 2)) for _ in range(count)]
    if any(len(llm.tokenize(text)) != N_TOKENS for text in texts):
        raise BenchmarkError("a word of the vocabulary is not one token")
    return texts


if __name__ == "__main__":
    sys.exit(main())
