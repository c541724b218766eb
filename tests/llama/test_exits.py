"""However the interpreter ends while a thread is inside a call, the process exits as it should, and silently."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.children import ROOT, run_child
from tests.support.exits import CALLS, ENDINGS

pytest_plugins = ["tests.support.models"]

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "20"))
"""For each call of the long test."""


def end(path: Path, call: str, ending: str, thread: str, delay: float) -> None:
    """Run one program; it must exit with its own status and write nothing but the traceback of its own exception."""
    arguments = [str(path), str(path.parent), call, ending, thread, str(delay)]
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "tests.support.exits", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    status, last_line = ENDINGS[ending]
    told = " ".join(arguments[2:])
    assert result.returncode == status, f"{told}: exit code {result.returncode}\n{result.stderr}"
    if last_line is None:
        assert result.stderr == "", f"{told}\n{result.stderr}"
    else:
        assert result.stderr.startswith("Traceback (most recent call last):"), f"{told}\n{result.stderr}"
        # asyncio raises KeyboardInterrupt while it handles that of its main task.
        chained = thread == "main" and ending == "interrupt"
        assert result.stderr.count("Traceback") == 1 + chained, f"{told}\n{result.stderr}"
        assert result.stderr.splitlines()[-1] == last_line, f"{told}\n{result.stderr}"


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_while_a_daemon_thread_generates(model_path: Path, ending: str) -> None:
    end(model_path, "generate", ending, "daemon", 0.02)


@pytest.mark.parametrize("call", ["chain", "embed", "load", "python", "save"])
def test_the_end_of_the_main_thread_while_a_daemon_thread_is_inside_a_call(model_path: Path, call: str) -> None:
    end(model_path, call, "return", "daemon", 0.01)


@pytest.mark.parametrize("call", ["worker", "async"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_while_a_worker_computes_for_others(model_path: Path, call: str, ending: str) -> None:
    end(model_path, call, ending, "daemon", 0.02)


# What a handler raises within a callback of asyncio's own, the loop logs and goes on: "term" may do that.
@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != "term"])
def test_every_ending_of_an_event_loop(model_path: Path, ending: str) -> None:
    end(model_path, "async", ending, "main", 0.05)


def test_an_event_loop_goes_on_when_the_main_thread_has_ended(model_path: Path) -> None:
    program = """
    import asyncio, sys, threading
    from llama_cffi import AsyncLlama

    async def ask():
        async with AsyncLlama(sys.argv[1], n_ctx=64, n_threads=1) as llm:
            threading.main_thread().join()
            print((await llm.generate("tana", max_tokens=4, temperature=0)).usage.completion_tokens)

    threading.Thread(target=asyncio.run, args=(ask(),)).start()
    """
    assert run_child(program, model_path) == "4\n"


def test_threads_that_are_joined_finish_after_an_interrupt(model_path: Path) -> None:
    end(model_path, "stream", "interrupt", "joined", 0.01)


@pytest.mark.fuzz
@pytest.mark.parametrize("call", CALLS)
def test_every_ending_of_every_call(model_path: Path, call: str) -> None:
    """Up to 20 rounds of each ending with either kind of thread, at moments drawn at random."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw, stop, done = random.Random(seed), time.monotonic() + SECONDS, 0
    for _ in range(20):
        for ending in ENDINGS:
            for thread in ("daemon", "joined"):
                end(model_path, call, ending, thread, draw.uniform(0, 0.1))
                done += 1
        if time.monotonic() > stop:
            break
    print(f"{call}: {done} processes")
    assert done >= 10
