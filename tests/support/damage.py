"""Models with random damage, used in forked children: run with ``python -m``. What ends a child is printed, by seed.

Arguments: the model, the damaged file to write, "metadata" or "tensors", the first seed, how many, and how many use one
child. When a child dies, its cases are run again in one child each.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llama_cffi import Batch, Context, ContextOptions, LlamaCffiError, Model
from tests.support.gguf_surgery import Parts, change, parse

SECONDS = 20
MEMORY = 1 << 20
"""Of a child, in KiB: more is printed."""
ADDRESSES = 12 << 30
ANSWERED, REFUSED, FOREIGN = 0, 1, 2


COMPUTING = re.compile(r"(?:ops|ggml-cpu|quants|repack|sgemm|mmq|traits|vec)\.(?:c|cpp|h|hpp):\d+: ")
"""Where what is computed fails an assertion: should it be caught because one thread computes, it is fatal with two."""


def use(path: Path) -> None:
    """Load a model and compute with it."""
    with Model(path) as model:
        for embeddings in (False, True):
            options = ContextOptions(n_ctx=64, n_batch=32, n_threads=1, n_threads_batch=1, embeddings=embeddings)
            with Context(model, options) as context:
                batch = Batch(8)
                for position, token in enumerate([1, 5, 9]):
                    batch.add(token, position, 0, output=True)
                if model.has_encoder:
                    context.encode(batch)
                if model.has_decoder:
                    context.decode(batch)
                    batch.clear()
                    batch.add(3, 3, 0, output=True)
                    context.decode(batch)


def attempt(case: Callable[[], None]) -> int:
    """What came of a case."""
    try:
        case()
    except (LlamaCffiError, MemoryError) as error:
        if COMPUTING.search(f"{error} {error.__cause__}"):
            traceback.print_exc()
            return FOREIGN
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return FOREIGN
    return ANSWERED


def in_child(cases: list[Callable[[], None]]) -> tuple[int, Counter[int], int, str]:
    """Status of a child that ran the cases, what came of each, its memory in KiB, and the end of its stderr."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
            try:
                for case in cases:
                    signal.alarm(SECONDS)
                    os.write(writer, bytes([attempt(case)]))
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            results = Counter(pipe.read())
        _, status, usage = os.wait4(child, 0)
        said.seek(0)
        lines = said.read(1 << 20).decode("utf-8", "replace").splitlines()
        # What failed comes before the log and the stacks.
        failed = [line for line in lines if re.search(r"\w\.(?:c|cpp|h|hpp):\d+: |Error", line)]
        return status, results, usage.ru_maxrss, "\n".join([*failed[:5], "", *lines[-12:]])


def search(make: Callable[[int], Callable[[], None]], describe: Callable[[int], object], seed: int, count: int,
           together: int) -> Counter[str]:  # fmt: skip
    """Run the cases of consecutive seeds; print each that ends a child, hangs, takes memory or is foreign."""
    counts: Counter[str] = Counter()
    for first in range(seed, seed + count, together):
        seeds = range(first, min(first + together, seed + count))
        status, results, memory, _ = in_child([make(one) for one in seeds])
        if status == 0 and not results[FOREIGN] and memory < MEMORY:
            counts.update({"answered": results[ANSWERED], "refused": results[REFUSED]})
            continue
        before = counts["bad"]
        for one in seeds:
            status, results, memory, text = in_child([make(one)])
            if status == 0 and not results[FOREIGN] and memory < MEMORY:
                counts.update({"answered": results[ANSWERED], "refused": results[REFUSED]})
                continue
            counts["bad"] += 1
            facts = {"seed": one, "status": status, "foreign": bool(results[FOREIGN]), "MiB": memory >> 10}
            print(json.dumps(facts | {"case": describe(one), "text": text[-1500:]}), flush=True)
        if counts["bad"] == before:
            counts["only together"] += 1
            print(json.dumps({"seeds": [seeds[0], seeds[-1]], "status": status, "only": "together"}), flush=True)
    return counts


def damaged(parts: Parts, what: str, target: Path) -> Callable[[int], Callable[[], None]]:
    """The cases of damage to one model."""

    def make(seed: int) -> Callable[[], None]:
        def case() -> None:
            target.write_bytes(change(parts, what, random.Random(seed)).bytes())
            use(target)

        return case

    return make


def main(model: str, target: str, what: str, seed: str, count: str, together: str) -> None:
    parts = parse(Path(model).read_bytes())
    use(Path(model))
    counts = search(
        damaged(parts, what, Path(target)),
        lambda one: change(parts, what, random.Random(one)).told,
        int(seed),
        int(count),
        int(together),
    )
    print(json.dumps({"counts": counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
