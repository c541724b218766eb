"""Decodes of a few rows by one library; ``benchmarks/rows.py`` runs it, one process for each library.

    python worker_rows.py MODEL SETTINGS

SETTINGS is a JSON object with ``threads`` and ``reader``, the compiled ``read.c``. Each line of standard input is a
JSON list: ``["rows", n, times]``, ``["prompt", n, times]`` or ``["read", times]``. Each line of standard output is a
list of ``[seconds, seconds of CPU]``, one for each time.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from llama_cffi import ContextOptions, Model
from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context

FIRST_TEXT_TOKEN = 300
MAX_PROMPT = 512


class Worker:
    """A model, a context, and what can be asked of them."""

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        threads = settings["threads"]
        self._path, self._threads = path, threads
        self._model = Model(path)
        self._context = Context(self._model, ContextOptions(n_ctx=1024, n_threads=threads, n_threads_batch=threads))
        self._batch = Batch(MAX_PROMPT)
        self._reader = ctypes.CDLL(settings["reader"]).read_once
        self._reader.restype = ctypes.c_double
        self._random = random.Random(0)

    def rows(self, n: int, times: int) -> list[list[float]]:
        """A decode of n tokens, all with logits, into an empty memory."""
        return self._decodes(n, times, all_outputs=True)

    def prompt(self, n: int, times: int) -> list[list[float]]:
        """A decode of n tokens, the last one with logits, into an empty memory."""
        return self._decodes(n, times, all_outputs=False)

    def _decodes(self, n: int, times: int, *, all_outputs: bool) -> list[list[float]]:
        n_vocab = self._model.vocab.n_tokens
        self._batch.clear()
        for i in range(n):
            token = self._random.randrange(FIRST_TEXT_TOKEN, n_vocab)
            self._batch.add(token, i, output=all_outputs or i == n - 1)

        def decode() -> None:
            self._context.decode(self._batch)
            self._context.synchronize()

        return [self._timed(decode) for _ in range(times)]

    def _timed(self, function: Callable[[], None]) -> list[float]:
        self._context.memory.clear(data=False)
        start, cpu = perf_counter(), process_time()
        function()
        return [perf_counter() - start, process_time() - cpu]

    def read(self, times: int) -> list[list[float]]:
        """As many bytes as the file has, read from memory by all threads."""
        data = np.fromfile(self._path, dtype=np.uint64, count=Path(self._path).stat().st_size // 8)
        address, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
        seconds = [float(self._reader(address, size, self._threads)) for _ in range(times)]
        return [[value, value * self._threads] for value in seconds]


def main() -> None:
    """Answer line by line."""
    worker = Worker(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
