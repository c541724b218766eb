"""The process of a model dies or hangs: an exception in a stated time, and the next call works."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import AsyncLlama, Llama
from llama_cffi.errors import EngineCrashed
from llama_cffi.isolation import link, supervisor
from tests.support.children import run_child

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes in /proc")

OPTIONS: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 4, "n_threads": 1}
PROMPT = "Once upon a time"
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30
"""How long a test waits for what takes a moment: a busy machine is no failure."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.0)


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(isolate=True, replay=True, **OPTIONS) as llm:
        yield llm


def pid_of(llm: Llama) -> int:
    pid = llm._runtime.pid  # type: ignore[attr-defined]
    assert isinstance(pid, int)
    return pid


def crash(llm: Llama, number: signal.Signals = signal.SIGKILL) -> int:
    pid = pid_of(llm)
    os.kill(pid, number)
    return pid


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # its new parent has not looked yet
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} still lives")


def wait_until_gone_and_noticed(llm: Llama) -> None:
    end = time.monotonic() + SECONDS
    while llm._runtime.pid is not None:  # type: ignore[attr-defined]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_everything_that_runs_gets_the_exception_and_the_next_call_works(llm: Llama) -> None:
    expected = llm.generate(PROMPT, max_tokens=6, temperature=0).tokens
    begun, caught = threading.Barrier(4), list[BaseException]()

    def ask(i: int) -> None:
        try:
            with llm.stream(PROMPT, max_tokens=500, seed=i) as stream:
                next(stream)
                begun.wait(SECONDS)
                for _ in stream:
                    pass
        except EngineCrashed as error:
            caught.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(SECONDS)
    pid = crash(llm)
    for thread in threads:
        thread.join(SECONDS)
    assert [(error.signal, error.code) for error in caught] == [("SIGKILL", None)] * 3  # type: ignore[attr-defined]
    assert "SIGKILL" in str(caught[0])
    assert caught[0] is not caught[1]
    assert llm.generate(PROMPT, max_tokens=6, temperature=0).tokens == expected
    assert pid_of(llm) != pid
    assert llm.embed("a dog").array.any()


def test_an_assertion_on_another_thread_is_in_the_exception(llm: Llama) -> None:
    # What a failed assertion of a compute thread does: the last words, and the end.
    its_os: Any = ("_answer",), ("__globals__",), ("__getitem__", ("os",), {})
    call = llm._runtime._supervisor.call  # type: ignore[attr-defined]
    said = (
        b"llama_cffi: llama.cpp failed an assertion that no Python call can report: /a/b.c:1: GGML_ASSERT(x) failed\n"
    )
    call(*its_os, ("write", (2, said + b"  the log\nThread 0x1 (most recent call first):\n"), {}))
    with pytest.raises(EngineCrashed, match=r"ended by SIGABRT: b.c:1: GGML_ASSERT\(x\) failed\n") as caught:
        call(*its_os, ("abort", (), {}))
    assert caught.value.signal == "SIGABRT"
    assert caught.value.log[-1] == "  the log"
    assert llm.generate(PROMPT, max_tokens=1).tokens


@pytest.mark.conformance
def test_calls_without_a_stream_get_it_too(llm: Llama) -> None:
    def kill(_: float) -> None:
        crash(llm)

    with pytest.raises(EngineCrashed):
        llm.embed(["a dog and a cat"] * 400, progress=kill)
    with pytest.raises(EngineCrashed):
        llm.perplexity("a dog and a cat. " * 400, n_ctx=16, progress=kill)
    assert llm.score(PROMPT, [" there"])[0].n_tokens == 1


@pytest.mark.conformance
def test_a_coroutine_gets_it(llm: Llama) -> None:
    async def ask() -> int:
        async with AsyncLlama(llm) as aio:
            stream = aio.stream(PROMPT, max_tokens=500, seed=1)
            await anext(stream)
            crash(llm)
            with pytest.raises(EngineCrashed):
                await asyncio.wait_for(stream.collect(), SECONDS)
            return len((await aio.generate(PROMPT, max_tokens=3, temperature=0)).tokens)

    assert asyncio.run(ask()) == 3


def test_a_process_that_is_stopped_hangs(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENT_SECONDS", 1.5)
    stream = llm.stream(PROMPT, max_tokens=500, seed=1)
    next(stream)
    pid = crash(llm, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(EngineCrashed, match=r"hung: it said nothing for [12] seconds"):
        list(stream)
    assert time.monotonic() - began < SECONDS
    wait_until_gone(pid)
    monkeypatch.undo()
    assert llm.generate(PROMPT, max_tokens=2).tokens


@pytest.mark.conformance
def test_a_process_that_is_stopped_for_30_seconds(llm: Llama) -> None:
    expected = llm.generate(PROMPT, max_tokens=6, temperature=0).tokens
    stream = llm.stream(PROMPT, max_tokens=500, seed=1)
    next(stream)
    began = time.monotonic()
    pid = crash(llm, signal.SIGSTOP)
    with pytest.raises(EngineCrashed, match="hung: it said nothing for 10 seconds"):
        list(stream)
    assert link.SILENT_SECONDS <= time.monotonic() - began < 30
    wait_until_gone(pid)
    assert llm.generate(PROMPT, max_tokens=6, temperature=0).tokens == expected


def test_ctrl_c_ends_the_call_and_not_the_process(llm: Llama) -> None:
    endless = dict.fromkeys(llm.model.vocab.eog_tokens, float("-inf"))
    running = llm._runtime.engine.snapshot
    running()
    pid = pid_of(llm)

    def press() -> None:
        while not running().running:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate([PROMPT] * 40, max_tokens=400, logit_bias=endless)
    thread.join(SECONDS)
    while running().running or running().waiting:
        pass  # the child goes on with what was cancelled, or the test hangs
    assert pid_of(llm) == pid
    assert llm.generate(PROMPT, max_tokens=1).tokens


@pytest.mark.conformance
def test_adapters_are_loaded_by_the_next_process(llm: Llama, tmp_path: Path) -> None:
    from llama_cffi.runtime import demo_path
    from tests.support.lora import random_pairs, write_lora

    adapter = llm.load_adapter(write_lora(tmp_path / "lora.gguf", random_pairs(Path(demo_path()))))
    llm.set_adapters({adapter: 1.0})
    before = llm.generate(PROMPT, max_tokens=6, temperature=0).tokens
    crash(llm)
    wait_until_gone_and_noticed(llm)
    assert llm.generate(PROMPT, max_tokens=6, temperature=0).tokens == before
    llm.set_adapters({})
    assert llm.generate(PROMPT, max_tokens=6, temperature=0).tokens != before
    adapter.close()


def test_with_replay_a_text_of_which_nothing_was_given_is_repeated(llm: Llama) -> None:
    found: list[Any] = []
    expected = llm.generate(PROMPT, max_tokens=300, temperature=0)
    thread = threading.Thread(target=lambda: found.append(llm.generate(PROMPT, max_tokens=300, temperature=0)))
    thread.start()
    running = llm._runtime.engine.snapshot
    while not running().running:
        pass
    pid = crash(llm)
    thread.join(SECONDS)
    assert found[0].tokens == expected.tokens
    assert pid_of(llm) != pid


@pytest.mark.conformance
def test_with_replay_a_text_that_was_begun_is_not_repeated(llm: Llama) -> None:
    stream = llm.stream(PROMPT, max_tokens=500, seed=1)
    next(stream)
    crash(llm)
    with pytest.raises(EngineCrashed):
        list(stream)


@pytest.mark.conformance
def test_with_replay_a_schema_is_read_from_its_beginning(llm: Llama) -> None:
    found: list[Any] = []

    def ask() -> None:
        stream = llm.stream_chat(
            "Hello", chat_template="{{ messages[0].content }}", schema=list[int], temperature=0, max_tokens=400,
            on_incomplete="return",
        )  # fmt: skip
        found.append(stream.result())

    ask()
    thread = threading.Thread(target=ask)
    thread.start()
    while not llm._runtime.engine.snapshot().running:
        pass
    crash(llm)
    thread.join(SECONDS)
    assert found[1].text == found[0].text
    assert found[1].parsed == found[0].parsed


@pytest.mark.conformance
def test_it_is_not_started_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with Llama.demo(isolate=True, **OPTIONS) as llm:
        starts: list[int] = []
        original = supervisor.Supervisor._start

        def start(self: Any, progress: Any = None) -> Any:
            started = original(self, progress)
            starts.append(started.pid)
            os.kill(started.pid, signal.SIGKILL)
            return started

        crash(llm)
        monkeypatch.setattr(supervisor.Supervisor, "_start", start)
        monkeypatch.setattr(supervisor, "MAX_CRASHES", 3)
        said = ""
        for _ in range(6):
            with pytest.raises(EngineCrashed) as caught:
                llm.generate(PROMPT, max_tokens=500)
            said = str(caught.value)
        assert "3 times in a row" in said
        assert len(starts) <= 3
        assert llm._runtime.engine._supervisor.failed  # type: ignore[attr-defined]


@pytest.mark.conformance
def test_it_ends_with_the_object() -> None:
    llm = Llama.demo(isolate=True, **OPTIONS)
    stream = llm.stream(PROMPT, max_tokens=400, seed=1)
    next(stream)
    pid = pid_of(llm)
    del llm, stream
    gc.collect()
    wait_until_gone(pid)


PROGRAM = """
import sys
from dataclasses import dataclass
from llama_cffi import Llama

# No guard of __main__, which the other process does not import, and a class that is only here.
@dataclass
class Animal:
    name: str

llm = Llama.demo(isolate=True, n_ctx=256, n_threads=1)
found = llm.generate("A", schema=Animal, temperature=0, max_tokens=100, on_incomplete="return").parsed
assert found is None or type(found) is Animal
print(llm._runtime.pid, flush=True)
ENDING
"""


@pytest.mark.conformance
def test_it_ends_with_the_interpreter() -> None:
    # With an open stream; standard error is empty.
    wait_until_gone(int(run_child(PROGRAM.replace("ENDING", "s = llm.stream('A', max_tokens=400); next(s)"))))


def test_it_ends_with_this_process_however_that_ends() -> None:
    source = PROGRAM.replace("ENDING", "sys.stdin.read()")
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        pid = int(process.stdout.readline())
        assert os.getsid(pid) == pid, "Ctrl-C in a terminal would reach it"
        os.kill(pid, signal.SIGINT)
        sockets = [one for one in os.listdir(f"/proc/{pid}/fd") if "socket" in os.readlink(f"/proc/{pid}/fd/{one}")]
        assert len(sockets) == 1
        os.kill(pid, 0)
        process.kill()
    wait_until_gone(pid)
