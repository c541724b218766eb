"""Threads and coroutines that do everything at once on one real model, and leave at random moments.

``pytest -m fuzz`` does it for a minute with 32 threads and 64 tasks; plain ``pytest`` for a moment with fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psutil
import pytest

from llama_cffi import AsyncLlama, Llama
from llama_cffi.errors import QueueFullError
from llama_cffi.reply.completion import FinishReason
from tests.support.ties import same_but_for_ties

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "60"))
PROMPTS = ["Once upon a time", "The cat", "A big red ball", "Tom and Sue went to the park", "One day, a girl"]
N_TOKENS = 16
LONG = "Once there was a dog. " * 20
WHOLE = (FinishReason.STOP, FinishReason.LENGTH)


class Work:
    """What the callers do, and what they found."""

    def __init__(self, llm: AsyncLlama, seconds: float, seed: int) -> None:
        self.llm = llm
        self.end = time.monotonic() + seconds
        self.seed = seed
        self.found: list[tuple[str, tuple[int, ...]]] = []
        """Greedy texts that were not cut."""
        self.n_done: dict[str, int] = {}
        self.errors: list[BaseException] = []

    def did(self, what: str) -> None:
        self.n_done[what] = self.n_done.get(what, 0) + 1

    def keep(self, prompt: str, completion: Any) -> None:
        if completion is not None and completion.finish_reason in WHOLE:
            self.found.append((prompt, completion.tokens))

    # -- threads

    def thread(self, number: int) -> None:
        draw = random.Random(f"{self.seed} thread {number}")
        try:
            while time.monotonic() < self.end:
                what = draw.choice([self.generate, self.stream, self.drop, self.chat, self.schema, self.score])
                try:
                    what(self.llm.llama, draw)
                except QueueFullError:
                    self.did("full")
                self.did(what.__name__)
        except BaseException as error:
            self.errors.append(error)

    def generate(self, llm: Llama, draw: random.Random) -> None:
        prompt, seconds = draw.choice(PROMPTS), draw.choice([None, None, 0.02])
        self.keep(prompt, llm.generate(prompt, max_tokens=N_TOKENS, temperature=0, max_seconds=seconds))

    def stream(self, llm: Llama, draw: random.Random) -> None:
        prompt, n = draw.choice(PROMPTS), draw.choice([3, 100])
        with llm.stream(prompt, max_tokens=N_TOKENS, temperature=0) as stream:
            for i, chunk in enumerate(stream):
                if i == n:
                    return
                self.keep(prompt, chunk.completion)

    def drop(self, llm: Llama, draw: random.Random) -> None:
        next(llm.stream(draw.choice([*PROMPTS, LONG]), max_tokens=200))

    def chat(self, llm: Llama, draw: random.Random) -> None:
        assert llm.chat("Hi", max_tokens=8, seed=draw.randrange(100)).finish_reason

    def schema(self, llm: Llama, draw: random.Random) -> None:
        assert llm.generate("Yes or no? ", schema=["yes", "no"], max_tokens=20).parsed in ("yes", "no")

    def score(self, llm: Llama, draw: random.Random) -> None:
        assert len(llm.score("Once", [" upon", " cat"])) == 2

    # -- coroutines

    async def tasks(self, numbers: range) -> None:
        await asyncio.gather(*map(self.task, numbers))

    async def task(self, number: int) -> None:
        draw = random.Random(f"{self.seed} task {number}")
        calls: list[Callable[[random.Random], Awaitable[None]]]
        calls = [self.a_generate, self.a_stream, self.a_leave, self.a_cancel, self.a_timeout, self.a_vectors]
        while time.monotonic() < self.end:
            what = draw.choice(calls)
            try:
                await what(draw)
            except QueueFullError:
                self.did("full")
            self.did(what.__name__)

    async def a_generate(self, draw: random.Random) -> None:
        prompts = draw.sample(PROMPTS, 2)
        for prompt, done in zip(
            prompts, await self.llm.generate(prompts, max_tokens=N_TOKENS, temperature=0), strict=True
        ):
            self.keep(prompt, done)

    async def a_stream(self, draw: random.Random) -> None:
        prompt = draw.choice(PROMPTS)
        stream = self.llm.stream(prompt, max_tokens=N_TOKENS, temperature=0)
        async for _ in stream:
            if draw.random() < 0.1:
                await asyncio.sleep(0.01)
        self.keep(prompt, stream.completion)

    async def a_leave(self, draw: random.Random) -> None:
        stream = self.llm.stream_chat(draw.choice(PROMPTS), max_tokens=200)
        await anext(stream)
        if draw.random() < 0.5:
            await stream.aclose()

    async def a_cancel(self, draw: random.Random) -> None:
        task = asyncio.ensure_future(self.llm.generate(draw.choice([*PROMPTS, LONG]), max_tokens=200))
        await asyncio.sleep(draw.random() * 0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def a_timeout(self, draw: random.Random) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.llm.chat("Hello", max_tokens=200), draw.random() * 0.1)

    async def a_vectors(self, draw: random.Random) -> None:
        assert (await self.llm.embed("a cat")).array.ndim == 1
        assert len(await self.llm.score("Once", [" upon", " cat"])) == 2


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """End the process, with the stack of every thread, when the block does not."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def work_off(work: Work, n_threads: int, n_tasks: int, n_loops: int) -> None:
    """Let all callers work until the end; raises what one of them raised."""

    def loop(number: int) -> None:
        try:
            asyncio.run(work.tasks(range(number * n_tasks // n_loops, (number + 1) * n_tasks // n_loops)))
        except BaseException as error:
            work.errors.append(error)

    threads = [threading.Thread(target=work.thread, args=(n,)) for n in range(n_threads)]
    threads += [threading.Thread(target=loop, args=(n,)) for n in range(n_loops)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(work.n_done)
    if work.errors:
        raise work.errors[0]


def check_at_rest(llm: AsyncLlama) -> None:
    """No request and no slot is left."""
    gc.collect()  # dropped streams
    end = time.monotonic() + 60
    while (stats := llm.stats()).running or stats.waiting:
        assert time.monotonic() < end, f"slots are lost: {stats}"
        time.sleep(0.01)
    with llm.llama._runtime.engine.at_rest() as slots:
        assert all(slot.sequence is None for slot in slots)


def check_texts(found: list[tuple[str, tuple[int, ...]]]) -> None:
    """Greedy texts are those computed alone."""
    assert len(found) > 5
    with Llama.demo(n_ctx=512, n_threads=1) as alone:
        expected = {prompt: alone.generate(prompt, max_tokens=N_TOKENS, temperature=0).tokens for prompt in PROMPTS}
        different = {(prompt, tokens) for prompt, tokens in found if tokens != expected[prompt]}
        print(f"{len(found)} greedy texts; {len(different)} different ones are unlike those computed alone")
        for prompt, tokens in different:
            assert same_but_for_ties(alone, prompt, tokens, expected[prompt])


def everything_at_once(seconds: float, n_threads: int, n_tasks: int, n_loops: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    gc.collect()
    process = psutil.Process()
    before = threading.active_count(), process.num_fds()
    with watchdog(seconds + 240):
        llm = AsyncLlama(Llama.demo(n_ctx=512, n_seq_max=6, n_threads=1, driver="thread"))
        work = Work(llm, seconds, seed)
        work_off(work, n_threads, n_tasks, n_loops)
        check_at_rest(llm)
        check_texts(work.found)
        asyncio.run(llm.aclose())
        llm.llama.close()
        del llm, work
        gc.collect()
        end = time.monotonic() + 20
        while threading.active_count() > before[0] or process.num_fds() > before[1]:
            assert time.monotonic() < end, f"leaked: {threading.enumerate()}, {process.num_fds()} for {before[1]}"
            time.sleep(0.01)


def test_everything_at_once() -> None:
    everything_at_once(1.0, 6, 10, 2)


@pytest.mark.fuzz
def test_everything_at_once_for_a_minute() -> None:
    everything_at_once(SECONDS, 32, 64, 3)
