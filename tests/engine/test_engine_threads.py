"""Threads that submit, read, step, cancel, vanish and rest at once, without a model: every request ends once."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import DriverName, EngineOptions
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import BusyError, DecodeError, QueueFullError
from llama_cffi.reply.completion import FinishReason
from tests.support.faulty_runner import FaultyRunner

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "20"))


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Let threads take turns within a step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Callers:
    """What the threads share."""

    def __init__(self, driver: DriverName, seed: str) -> None:
        self.seed = seed
        self.runner = FaultyRunner(n_batch=12, n_ctx=48, n_seq_max=4, n_cells=110)
        self.engine = Engine(self.runner, EngineOptions(driver=driver, max_waiting=8))
        self.errors: list[BaseException] = []
        self.kept: list[Request] = []
        self.n_done = 0

    def work(self, number: int, n_turns: int) -> None:
        draw = random.Random(f"{self.seed} {number}")
        try:
            for _ in range(n_turns):
                self.turn(draw)
        except BaseException as error:
            self.errors.append(error)

    def turn(self, draw: random.Random) -> None:
        engine = self.engine
        prompt = [draw.randrange(3) for _ in range(draw.randrange(1, 30))]
        request = Request(prompt=Prompt(prompt), max_tokens=draw.randrange(0, 16))
        fails = draw.random() < 0.1
        if fails:
            self.kept.append(request)  # so that no other one has its id
            self.runner.poisoned.add(id(request))
        try:
            heard: list[list[RunningSequence]] = []
            sequence = engine.submit(request, heard.append if draw.random() < 0.5 else None)
        except QueueFullError:
            engine.step()
            return
        leave = draw.choice([None, None, 2])
        text, n_ends = "", 0
        try:
            while (chunk := engine.next_chunk(sequence)) is not None:
                text += chunk.text
                n_ends += chunk.completion is not None
                if leave is not None and len(text) >= leave and not sequence.done:
                    if draw.random() < 0.5:
                        engine.abandon(sequence)
                        return
                    engine.cancel(sequence)
                if draw.random() < 0.1:
                    engine.step()
        except DecodeError:
            assert fails
            n_ends += 1
        assert n_ends == 1
        assert engine.next_chunk(sequence) is None
        expected = self.runner.expected(prompt, request.max_tokens or 0, 48)
        cut = sequence.finish_reason is FinishReason.CANCELLED
        assert sequence.output == (expected[: len(sequence.output)] if cut else expected)
        if draw.random() < 0.05:
            try:
                with engine.at_rest() as slots:
                    assert all(slot.sequence is None for slot in slots)
            except BusyError:
                pass
        self.n_done += 1


def all_at_once(driver: DriverName, seed: str, n_threads: int, n_turns: int) -> None:
    callers = Callers(driver, seed)
    threads = [threading.Thread(target=callers.work, args=(n, n_turns), daemon=True) for n in range(n_threads)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 120
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
        assert not thread.is_alive(), "a thread waits for ever"
    if callers.errors:
        raise callers.errors[0]
    assert callers.n_done > n_threads
    engine, runner = callers.engine, callers.runner
    while not engine.idle:
        engine.step()
    with engine.at_rest() as slots:
        for slot in slots:
            assert runner.memory[slot.seq_id] == list(slot.held)
    assert runner.largest <= runner.n_batch
    engine.close()


@pytest.mark.parametrize("driver", ["inline", "thread"])
def test_all_at_once(driver: DriverName) -> None:
    all_at_once(driver, "plain", 6, 12)


@pytest.mark.fuzz
@pytest.mark.parametrize("driver", ["inline", "thread"])
def test_all_at_once_for_long(driver: DriverName) -> None:
    end, n = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}")
        all_at_once(driver, str(seed), 8, 30)
        n += 1
    print(f"{n} rounds")
