"""An encoding beside the decodes of a context: in its turns, and the threads of its pool sleep meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, Image, Llama, MediaChunk, Model, ModelOptions, Projector
from llama_cffi._native import extras, helpers
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.helpers import lib
from llama_cffi._native.turn import Turn
from llama_cffi.core.cpu_topology import usable_cpus
from llama_cffi.core.threads import default_thread_count
from llama_cffi.engine.open_media import OpenMedia
from llama_cffi.errors import AbortedError, BusyError
from tests.support.children import ROOT
from tests.support.media_models import QWEN2VL_SHAPE, write_text_model, write_vision_projector
from tests.support.pictures import scene

PATIENCE = 30.0
"""Seconds after which a test that hangs fails."""

pauses = pytest.mark.skipif(helpers.KIND != "compiled", reason="without the helpers an encoding is one piece")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("beside")
    return (
        write_text_model(folder / "text.gguf", "qwen2vl", QWEN2VL_SHAPE),
        write_vision_projector(folder / "mmproj.gguf"),
    )


class Beside:
    """A projector that computes beside a context, and another thread that has the context's turn when it likes."""

    def __init__(self, files: tuple[Any, Any], n_threads: int) -> None:
        self.model = Model(files[0])
        self.projector = Projector(self.model, files[1], n_threads=1, warmup=False)
        self.context = Context(self.model, ContextOptions(n_ctx=64, n_threads=n_threads))
        (self.chunk,) = (one for one in self.projector.tokenize(Image(scene(80, 80))) if isinstance(one, MediaChunk))
        self.expected = self.encode()
        self.projector.turns.add(self.context.turn)
        self.results: list[Any] = []

    @property
    def turn(self) -> Turn:
        return self.context.turn

    def encode(self, deadline: float | None = None) -> NDArray[np.float32]:
        return self.projector.encode(self.chunk, deadline=deadline)

    def start(self, call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                self.results.append(call())
            except BaseException as error:
                self.results.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def wait(self, n: int) -> None:
        """Return when so many wait for the turn."""
        end = time.monotonic() + PATIENCE
        while self.turn.n_waiting != n:
            assert time.monotonic() < end
            time.sleep(0.001)

    def take(self) -> None:
        assert lib.lch_turn_take(self.turn.native, AbortFlag().native) == 0

    def give(self) -> None:
        lib.lch_turn_give(self.turn.native)

    def decode(self) -> None:
        self.context.memory.clear()
        batch = Batch(1)
        batch.add(1, 0, 0, output=True)
        self.context.decode(batch)


@pytest.fixture(params=["shared", "own"])
def beside(request: pytest.FixtureRequest, files: tuple[Any, Any]) -> Iterator[Beside]:
    """With threads that all large contexts share, and with few of its own."""
    made = Beside(files, usable_cpus() if request.param == "shared" else 1)
    if usable_cpus() > 1:
        assert made.context.threads.shared == (request.param == "shared")
    yield made
    made.model.close()


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pauses
def test_it_waits_for_a_decode_and_a_decode_comes_between_its_pieces(beside: Beside) -> None:
    beside.take()
    encoding = beside.start(beside.encode)
    beside.wait(1)
    between = threading.Event()

    def decode() -> None:
        beside.take()
        between.set()

    decoding = beside.start(decode)
    beside.wait(2)
    beside.give()
    # The first piece is computed, and the next one is waiting.
    assert between.wait(PATIENCE)
    beside.wait(1)
    assert encoding.is_alive()
    beside.give()
    join(encoding)
    join(decoding)
    assert np.array_equal(beside.results[-1], beside.expected)
    assert beside.turn.n_waiting == 0


@pytest.mark.skipif(helpers.KIND == "compiled", reason="the helpers take turns")
def test_without_the_helpers_it_waits_for_nothing(beside: Beside) -> None:
    beside.take()
    encoding = beside.start(beside.encode)
    join(encoding)
    beside.give()
    assert np.array_equal(beside.results[0], beside.expected)


def test_decodes_go_on_beside_it(beside: Beside) -> None:
    encodings = beside.start(lambda: [beside.encode() for _ in range(2)])
    n_decoded = 0
    while encodings.is_alive():
        beside.decode()
        n_decoded += 1
    assert n_decoded
    assert all(np.array_equal(one, beside.expected) for one in beside.results[0])
    beside.take()  # it is free
    beside.give()


@pauses
@pytest.mark.parametrize("how", ["abort", "deadline", "close"])
def test_it_can_be_stopped_while_it_waits(beside: Beside, how: str) -> None:
    beside.take()
    deadline = time.monotonic() + 0.05 if how == "deadline" else None
    encoding = beside.start(lambda: beside.encode(deadline))
    if how != "deadline":
        beside.wait(1)
    if how == "abort":
        beside.projector.abort()
    elif how == "close":
        beside.projector.close()
    join(encoding)
    assert isinstance(beside.results[0], AbortedError)
    assert beside.turn.n_waiting == 0
    beside.give()
    beside.decode()
    if how != "close":
        assert np.array_equal(beside.encode(), beside.expected)


@pauses
def test_closing_the_model_ends_what_waits_for_a_turn(beside: Beside) -> None:
    beside.take()
    waiting = [beside.start(beside.encode), beside.start(beside.decode)]
    beside.wait(2)
    beside.model.close()
    for thread in waiting:
        join(thread)
    beside.give()
    assert [isinstance(one, AbortedError) for one in beside.results] == [True, True]


@pauses
def test_it_is_refused_in_the_middle_of_a_decode_of_its_thread(beside: Beside) -> None:
    beside.take()
    with pytest.raises(BusyError, match="in the middle of a computation"):
        beside.encode()
    beside.give()
    assert np.array_equal(beside.encode(), beside.expected)


def test_what_fails_gives_the_turn_back(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(beside.projector, "_finish", lambda name, code: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            beside.encode()
    beside.decode()
    assert np.array_equal(beside.encode(), beside.expected)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells about threads")
@pytest.mark.skipif(usable_cpus() < 2, reason="one thread has no others that wait")
def test_threads_of_the_pool_sleep_beside_it(files: tuple[Any, Any]) -> None:
    if extras.exported("ggml_threadpool_pause") is None:
        pytest.skip("this library cannot pause threads")
    made = Beside(files, usable_cpus())
    before = set(os.listdir("/proc/self/task"))
    # Otherwise they wait busily for long.
    options = ContextOptions(n_ctx=64, n_threads=usable_cpus(), poll=100)
    with made.model, Context(made.model, options) as context:
        made.projector.turns.add(context.turn)
        made.context = context
        tasks = set(os.listdir("/proc/self/task")) - before
        assert tasks
        made.decode()
        made.encode()
        used = cpu_ticks(tasks)
        time.sleep(0.1)
        assert cpu_ticks(tasks) == used


def cpu_ticks(tasks: set[str]) -> list[int]:
    """Hundredths of a second that threads have computed."""
    found = []
    for task in sorted(tasks):
        with open(f"/proc/self/task/{task}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        found.append(int(fields[11]) + int(fields[12]))
    return found


def test_contexts_take_turns_with_it_where_cpus_are_too_few(files: tuple[Any, Any]) -> None:
    n = default_thread_count()
    with Model(files[0], ModelOptions(n_gpu_layers=0)) as model:
        for n_threads, n_beside, shares in ((n, n, True), (n, 1, True), (1, n, True), (1, n - 1, False)):
            if n_beside < 1:
                continue
            with (
                Projector(model, files[1], n_threads=n_beside, warmup=False) as projector,
                Context(model, ContextOptions(n_ctx=64, n_threads=n_threads)) as context,
            ):
                OpenMedia(projector, owned=False).compute_beside(context)
                assert projector.turns.found == ([context.turn] if shares else [])


def test_an_encoding_takes_the_turns_of_all_that_ask_for_it(files: tuple[Any, Any]) -> None:
    n = default_thread_count()
    with Model(files[0], ModelOptions(n_gpu_layers=0)) as model:
        projector = Projector(model, files[1], n_threads=n, warmup=False)
        with Llama(model, mmproj=projector, n_ctx=256, n_threads=1) as llm, llm.fork() as fork:
            turns = {llm.context.turn, fork.context.turn}
            assert len(turns) == (2 if usable_cpus() > 1 else 1)
            assert set(projector.turns.found) == turns
            found = []

            def ask(one: Llama, seed: int) -> None:
                for i in range(2):
                    picture = Image(scene(60, 60, seed + i))
                    found.append(one.generate(["Look: ", picture], max_tokens=8).usage.completion_tokens)

            threads = [threading.Thread(target=ask, args=(one, 10 * i)) for i, one in enumerate((llm, fork))]
            for thread in threads:
                thread.start()
            for thread in threads:
                join(thread)
            assert len(found) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_its_parent(files: tuple[Any, Any]) -> None:
    code = (
        "import os, sys\n"
        "from tests.core.media.test_encoding_beside import Beside\n"
        "beside = Beside(sys.argv[1:], 2)\n"
        "beside.take()\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    assert (beside.encode() == beside.expected).all()\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "beside.give()\n"
        "assert (beside.encode() == beside.expected).all()\n"
    )
    program = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
