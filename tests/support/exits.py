"""A program that ends in a chosen way while another thread is inside a chosen call: run with ``python -m``."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from llama_cffi import AsyncLlama, Context, ContextOptions, Llama, Model, PromptLookup, quantize
from llama_cffi.core.sampler import Candidates, Dist, PythonSampler

WORDS = "tana nese tara " * 100
LONG = 900
"""Tokens of a long generation: seconds, where an exit takes milliseconds."""


class Run(NamedTuple):
    """What the calls use."""

    path: Path
    llm: Llama
    folder: Path


class Passing(PythonSampler):
    """A sampler whose Python code llama.cpp calls for each token."""

    def apply(self, candidates: Candidates) -> None:
        candidates.logits[0] -= 1.0

    def clone(self) -> Passing:
        return Passing()


def _fork(run: Run) -> None:
    with run.llm.fork() as other:
        other.generate("tana", max_tokens=4, seed=1)


def _load(run: Run) -> None:
    with Model(run.path) as model, Context(model, ContextOptions(n_ctx=64, n_threads=1)):
        pass


def _threaded(run: Run) -> Llama:
    """A Llama whose worker computes, made with the first call."""
    if not threaded:
        threaded.append(Llama(run.path, n_ctx=2048, n_seq_max=4, n_threads=1, driver="thread"))
    return threaded[0]


def _async(run: Run) -> None:
    async def read() -> None:
        llm = AsyncLlama(_threaded(run))
        streams = [llm.stream(word, max_tokens=LONG, seed=1) for word in ("tana", "nese")]
        await asyncio.gather(llm.generate("tara", max_tokens=LONG, seed=1), *(one.result() for one in streams))

    asyncio.run(read())


CALLS: dict[str, Callable[[Run], object]] = {
    "generate": lambda run: run.llm.generate("tana", max_tokens=LONG, seed=1),
    "greedy": lambda run: run.llm.generate("tana", max_tokens=LONG, temperature=0.0),
    "batch": lambda run: run.llm.generate(["tana", "nese", "tara"], max_tokens=LONG, seed=1),
    "chain": lambda run: run.llm.generate("tana", max_tokens=LONG, seed=1, repeat_penalty=1.1),
    "python": lambda run: run.llm.generate("tana", max_tokens=LONG, samplers=(Passing(), Dist(1))),
    "schema": lambda run: run.llm.generate("tana", max_tokens=LONG, seed=1, schema={"type": "array"}),
    "stream": lambda run: list(run.llm.stream("tana", max_tokens=LONG, seed=1)),
    "draft": lambda run: run.llm.generate("tana", max_tokens=LONG, seed=1, speculative=PromptLookup()),
    "embed": lambda run: run.llm.embed([WORDS] * 20, pooling="mean", truncate=True),
    "score": lambda run: run.llm.score("tana", [WORDS, "nese"] * 10),
    "perplexity": lambda run: run.llm.perplexity(WORDS * 10),
    "tokenize": lambda run: run.llm.tokenize(WORDS * 100),
    "quantize": lambda run: quantize(run.path, run.folder / f"{time.monotonic_ns()}.gguf", "Q8_0"),
    "save": lambda run: run.llm.save_state(run.folder / "state"),
    "fork": _fork,
    "load": _load,
    "worker": lambda run: list(_threaded(run).stream("tana", max_tokens=LONG, seed=1)),
    "async": _async,
}
"""What a thread may be inside of when the interpreter ends."""

ENDINGS: dict[str, tuple[int, str | None]] = {
    "return": (0, None),
    "exit": (3, None),
    "exception": (1, "RuntimeError: terminated"),
    "interrupt": (-signal.SIGINT, "KeyboardInterrupt"),
    "term": (1, "RuntimeError: terminated"),
}
"""How the main thread may end, the exit status, and the last line on standard error."""


async def _end_a_loop(run: Run, ending: str, delay: float) -> None:
    """End the event loop of the main thread while others of its tasks wait for texts."""
    llm = AsyncLlama(_threaded(run))
    tasks = [asyncio.ensure_future(llm.generate(word, max_tokens=LONG, seed=1)) for word in ("tana", "nese")]
    await anext(llm.stream("tara", max_tokens=LONG, seed=1))
    await asyncio.sleep(delay)
    if ending == "exit":
        sys.exit(3)
    if ending == "exception":
        raise RuntimeError("terminated")
    if ending in ("interrupt", "term"):
        number = signal.SIGINT if ending == "interrupt" else signal.SIGTERM
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        await asyncio.sleep(10)
    del tasks


class Slow:
    """Something whose finalizer takes a moment."""


def on_term(number: int, frame: FrameType | None) -> NoReturn:
    raise RuntimeError("terminated")


def main(path: str, folder: str, call: str, ending: str, kind: str, delay: str) -> None:
    # A shell lets what it starts in the background ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    llm = Llama(path, n_ctx=2048, n_seq_max=4, n_threads=1)
    llm.generate("tana nese", max_tokens=8, seed=1)
    # Importing runs exec() of texts in what it imports. With that a thread makes CPython forget that the main thread
    # ended by KeyboardInterrupt, and the exit status is 1.
    importlib.import_module("llama_cffi.grammar.schema")
    function, run = CALLS[call], Run(Path(path), llm, Path(folder))
    daemon = kind == "daemon"
    slow = Slow()
    inside = threading.Event()
    # A thread that is joined must end by itself.
    end = time.monotonic() + 0.5

    def work() -> None:
        inside.set()
        while daemon or time.monotonic() < end:
            function(run)

    signal.signal(signal.SIGTERM, on_term)
    if kind == "main":
        keep.append(llm)
        asyncio.run(_end_a_loop(run, ending, float(delay)))
        return
    thread = threading.Thread(target=work, daemon=daemon)
    thread.start()
    inside.wait()
    time.sleep(float(delay))
    # Newest first: both sides of whatever the thread has made.
    weakref.finalize(slow, time.sleep, 0.1)
    keep.extend([llm, slow])
    if ending == "exit":
        sys.exit(3)
    if ending == "exception":
        raise RuntimeError("terminated")
    if ending in ("interrupt", "term"):
        number = signal.SIGINT if ending == "interrupt" else signal.SIGTERM
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        thread.join()
        time.sleep(10)


keep: list[object] = []
threaded: list[Llama] = []

if __name__ == "__main__":
    main(*sys.argv[1:])
