"""Random calls from many threads, with closing, forks, cancelling and signals among them: run with ``python -m``.

Arguments: a model, an adapter for it, a folder, a seed, how many calls, how many threads. Printed is what came of each
kind of call. The process must exit with 0: an exception that is not the package's, or a call that takes too long, is
printed and the exit status is 1, or 2 for a hang.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from llama_cffi import Batch, Context, ContextOptions, ControlVector, Llama, LlamaCffiError, Model, PromptLookup
from tests.support.hostile import PACKAGE

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_HANG", "20"))
"""More is a hang."""
WORDS = ["tana", "nese", "tara", "tana nese tara", "tara " * 30, ""]


class Signalled(BaseException):
    """What the signal handler raises."""


class Misuse:
    """Some objects that all threads use, and what they do with them."""

    def __init__(self, model: Path, adapter: Path, folder: Path, seed: int) -> None:
        self._path, self._adapter, self._folder, self._seed = model, adapter, folder, seed
        self.counts: Counter[str] = Counter()
        self.foreign: list[str] = []
        self._lock = threading.Lock()
        self._armed = False
        self._since: dict[int, tuple[float, str]] = {}
        self._llms = [self._open() for _ in range(3)]
        self._kept: list[Any] = []
        self.calls: dict[str, tuple[int, Callable[[random.Random], object]]] = {
            "generate": (20, self._generate),
            "stream": (20, self._stream),
            "several": (4, lambda rng: self._llm(rng).generate(["tana", "nese"], max_tokens=4, seed=1)),
            "schema": (6, lambda rng: self._llm(rng).generate("tana", max_tokens=8, schema={"type": "integer"})),
            "chat": (4, lambda rng: self._llm(rng).chat("tana", max_tokens=3)),
            "draft": (3, lambda rng: self._llm(rng).generate("tana", max_tokens=6, speculative=PromptLookup())),
            "embed": (4, lambda rng: self._llm(rng).embed(["tana", "nese"], pooling="mean")),
            "score": (3, lambda rng: self._llm(rng).score("tana", ["nese", "tara"])),
            "tokenize": (10, lambda rng: self._llm(rng).tokenize(rng.choice(WORDS))),
            "read": (4, self._read),
            "next": (10, self._next),
            "drop": (4, self._drop),
            "save": (3, lambda rng: self._llm(rng).save_state(self._folder / f"state{rng.randrange(3)}")),
            "load": (3, lambda rng: self._llm(rng).load_state(self._folder / f"state{rng.randrange(3)}")),
            "bytes": (3, self._bytes),
            "adapter": (3, self._adapt),
            "vector": (3, self._direct),
            "fork": (3, self._fork),
            "close": (1, lambda rng: self._llm(rng).close()),
            "close the context": (1, lambda rng: self._llm(rng).context.close()),
            "close the model": (1, lambda rng: self._llm(rng).model.close()),
            "replace": (4, self._replace),
            "context": (3, self._context),
            "process": (1, self._process),
            "signal": (4, lambda rng: os.kill(os.getpid(), signal.SIGUSR1)),
        }

    def _open(self) -> Llama:
        return Llama(self._path, n_ctx=128, n_seq_max=3, n_threads=1)

    def _llm(self, rng: random.Random) -> Llama:
        return rng.choice(self._llms)

    def _generate(self, rng: random.Random) -> None:
        options: dict[str, Any] = rng.choice(
            [{}, {"temperature": 0}, {"seed": 1}, {"top_k": 5, "repeat_penalty": 1.1}, {"logprobs": 2}]
        )
        self._llm(rng).generate(rng.choice(WORDS), max_tokens=rng.choice([1, 4, 16]), **options)

    def _stream(self, rng: random.Random) -> None:
        stream = self._llm(rng).stream(rng.choice(WORDS), max_tokens=rng.choice([2, 8, 60]))
        for _, _chunk in zip(range(rng.choice([0, 1, 3, 100])), stream, strict=False):
            pass
        what = rng.randrange(3)
        if what == 0:
            stream.close()
        elif what == 1:
            with self._lock:
                self._kept.append(stream)

    def _next(self, rng: random.Random) -> None:
        if self._kept:
            next(rng.choice(self._kept), None)

    def _drop(self, rng: random.Random) -> None:
        with self._lock:
            kept = self._kept.pop(rng.randrange(len(self._kept))) if self._kept else None
        del kept

    def _read(self, rng: random.Random) -> None:
        llm = self._llm(rng)
        repr((llm, llm.model, llm.context, llm.context.memory.seq_pos_max(0)))
        if not llm.model.closed:
            llm.context.outputs.logits(-1)

    def _bytes(self, rng: random.Random) -> None:
        self._llm(rng).load_state_bytes(self._llm(rng).state_bytes())

    def _adapt(self, rng: random.Random) -> None:
        llm = self._llm(rng)
        adapter = llm.load_adapter(self._adapter)
        llm.set_adapters({adapter: rng.choice([0.0, 1.0])})
        if rng.random() < 0.5:
            llm.set_adapters({})
        if rng.random() < 0.7:
            adapter.close()

    def _direct(self, rng: random.Random) -> None:
        llm = self._llm(rng)
        rows = np.zeros((llm.model.n_layer, llm.model.n_embd), dtype=np.float32)
        rows[1:] = rng.random()
        llm.set_control_vector(rng.choice([None, ControlVector(rows)]))

    def _fork(self, rng: random.Random) -> None:
        twin = self._llm(rng).fork()
        if rng.random() < 0.5:
            twin.generate("tana", max_tokens=2)
        if rng.random() < 0.8:
            twin.close()

    def _replace(self, rng: random.Random) -> None:
        i = rng.randrange(len(self._llms))
        if self._llms[i].closed or self._llms[i].context.closed or rng.random() < 0.1:
            self._llms[i] = self._open()

    def _context(self, rng: random.Random) -> None:
        model = self._llm(rng).model if rng.random() < 0.5 else Model(self._path)
        with Context(model, ContextOptions(n_ctx=64, n_batch=32, n_threads=rng.choice([1, 2]))) as context:
            batch = Batch(4)
            batch.extend([1, 5, 9], 0, output_last=True)
            context.decode(batch)
            if rng.random() < 0.3:
                model.close()
            context.outputs.logits(-1)

    def _process(self, rng: random.Random) -> None:
        """A child that uses what its parent has made, or its own."""
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            code = 0
            try:
                self.calls[rng.choice(["generate", "stream", "bytes", "close"])][1](rng)
            except LlamaCffiError:
                pass
            except BaseException:
                traceback.print_exc()
                code = 1
            os._exit(code)
        end = time.monotonic() + SECONDS
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.002)
        if status:
            raise RuntimeError(f"the child ended with status {status}")

    def warm_up(self) -> None:
        """Make each call once."""
        rng = random.Random(0)
        for name, (_, call) in self.calls.items():
            if not name.startswith(("close", "signal", "process")):
                with suppress(LlamaCffiError, FileNotFoundError):
                    call(rng)

    def work(self, number: int, n_calls: int) -> None:
        """Make calls; what a thread does is decided by the seed and its number."""
        rng = random.Random(f"{self._seed} {number}")
        names = list(self.calls)
        weights = [weight for weight, _ in self.calls.values()]
        for name in rng.choices(names, weights, k=n_calls):
            result = "done"
            self._since[number] = time.monotonic(), name
            try:
                try:
                    self._armed = self._armed or number == 0
                    self.calls[name][1](rng)
                except Signalled:
                    result = "signalled"
                except LlamaCffiError as error:
                    result = type(error).__name__
                except FileNotFoundError as error:
                    result = type(error).__name__ if name == "load" else self._report(name, error)
                except (TypeError, ValueError) as error:
                    inside = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)
                    result = type(error).__name__ if inside else self._report(name, error)
                except BaseException as error:
                    result = self._report(name, error)
                if number == 0:
                    self._armed = False
                self.counts[f"{name}: {result}"] += 1
            except Signalled:
                self._armed = False
        self._since.pop(number, None)

    def _report(self, name: str, error: BaseException) -> str:
        self.foreign.append(f"{name}: {''.join(traceback.format_exception(error))[-2500:]}")
        return f"FOREIGN {type(error).__name__}"

    def on_signal(self, number: int, frame: object) -> None:
        """Raise in the main thread, while it is inside a call."""
        if self._armed:
            raise Signalled

    def watch(self) -> None:
        """End the process when a call takes too long."""
        while True:
            time.sleep(0.5)
            for number, (since, name) in list(self._since.items()):
                if time.monotonic() - since > SECONDS:
                    print(f"thread {number} is in {name} for {SECONDS} seconds", flush=True)
                    faulthandler.dump_traceback(file=sys.stdout, all_threads=True)
                    sys.stdout.flush()
                    os._exit(2)


def main(model: str, adapter: str, folder: str, seed: str, n_calls: str, n_threads: str) -> int:
    misuse = Misuse(Path(model), Path(adapter), Path(folder), int(seed))
    signal.signal(signal.SIGUSR1, misuse.on_signal)
    # Python's own logging keeps its lock when a signal handler raises in the wrong place.
    logging.getLogger("llama_cffi.native").disabled = True
    # What is imported at first use is imported now: Python's own import does not survive a signal in the middle.
    misuse.warm_up()
    threading.Thread(target=misuse.watch, daemon=True).start()
    each = int(n_calls) // int(n_threads)
    threads = [threading.Thread(target=misuse.work, args=(i, each)) for i in range(1, int(n_threads))]
    for thread in threads:
        thread.start()
    misuse.work(0, each)
    for thread in threads:
        thread.join()
    for text in misuse.foreign[:20]:
        print(text, file=sys.stderr)
    print(json.dumps(dict(sorted(misuse.counts.items()))))
    return 1 if misuse.foreign else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
