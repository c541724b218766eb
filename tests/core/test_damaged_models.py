"""Model files with random damage: an exception or a result, and never the end of the process."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.support.children import run_child

pytest_plugins = ["tests.support.models"]

PROGRAM = """
    import os, pathlib, random, signal, struct, sys
    from llama_cffi import Batch, Context, ContextOptions, LlamaCffiError, Model
    from llama_cffi.core.gguf import GGUFFile

    path, damaged, kind, seed, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    data, file = pathlib.Path(path).read_bytes(), GGUFFile(path)
    if kind == "metadata":
        keys = [key for key in file.metadata if not key.startswith("tokenizer.ggml.t")]
        places = [(data.index(key.encode()) + len(key) + 4, 8) for key in keys]
    else:
        names = [struct.pack("<Q", len(tensor.name)) + tensor.name.encode() for tensor in file.tensors]
        places = [(data.index(name) + len(name), 36) for name in names]
    odd = [0, 1, 2, 3, 7, 8, 127, 128, 255]

    def attempt(rng):
        new = bytearray(data)
        start, size = rng.choice(places)
        for _ in range(rng.choice([1, 1, 2, 4])):
            new[start + rng.randrange(size)] = rng.choice([*odd, rng.randrange(256)])
        if rng.random() < 0.3:
            at = start + rng.randrange(0, size - 3)
            number = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-30])
            new[at : at + 4] = struct.pack("<f", number)
        with open(damaged, "wb") as out:
            out.write(new)
        try:
            with Model(damaged) as model, Context(model, ContextOptions(n_ctx=64, n_batch=32, n_threads=1)) as context:
                batch = Batch(8)
                for position, token in enumerate([1, 5, 9]):
                    batch.add(token, position, 0, output=True)
                context.decode(batch)
            return 0
        except (LlamaCffiError, MemoryError):
            return 1

    counts = {}
    for i in range(rounds):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.alarm(30)
            code = 99
            try:
                code = attempt(random.Random(seed + i))
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        counts[status] = counts.get(status, 0) + 1
        if status not in (0, 256):
            print("seed", seed + i, "status", status, flush=True)
    print(dict(sorted(counts.items())))
"""


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["metadata", "tensors"])
def test_random_damage(model_path: Path, tmp_path: Path, kind: str) -> None:
    seed = random.randrange(2**31)
    end = time.monotonic() + 120
    lines: list[str] = []
    while time.monotonic() < end:
        output = run_child(PROGRAM, model_path, tmp_path / "damaged.gguf", kind, seed, 200, timeout=6_000)
        lines += output.splitlines()
        seed += 200
        print(output)
    assert not [line for line in lines if line.startswith("seed")]
