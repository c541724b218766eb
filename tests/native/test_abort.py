"""The abort flag in the middle of a real computation."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from llama_cffi._native import ffi, guard, helpers, lib
from llama_cffi._native.abort import AbortFlag

N = 16384
ABORTED = 2
# The unit of abort is one graph node, and the machine may be busy.
SOON = 1.5


class Long:
    """A decode that takes many seconds unless it is stopped: attention over thousands of tokens."""

    def __init__(self, model: Any) -> None:
        self.flag = AbortFlag()
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = N
        params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.abort_callback = ffi.cast("ggml_abort_callback", self.flag.callback)
        params.abort_callback_data = self.flag.data
        self.context = guard.init_from_model(model, params)
        self._tokens = ffi.new("int32_t[]", [5] * N)

    def decode(self, n: int = N) -> int:
        batch = ffi.new("struct llama_batch *", lib.llama_batch_get_one(self._tokens, n))
        self.flag.arm()
        return guard.decode(self.context, batch)


@pytest.fixture(scope="module")
def long(assets: Path) -> Iterator[Long]:
    path = str(assets / "models/stories260K.gguf").encode()
    model = guard.model_load_from_file(path, lib.llama_model_default_params())
    computation = Long(model)
    yield computation
    lib.llama_free(computation.context)
    lib.llama_model_free(model)


@pytest.fixture(autouse=True)
def clean(long: Long) -> Iterator[None]:
    yield
    long.flag.deadline = None
    long.flag.clear()
    lib.llama_memory_clear(lib.llama_get_memory(long.context), True)


in_the_middle = pytest.mark.skipif(
    helpers.KIND == "python", reason="without the compiled helpers no clock and no signal is seen inside llama_decode"
)


class Stopped(Exception):
    pass


def later(seconds: float, action: Any) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_another_thread_stops_it(long: Long) -> None:
    timer = later(0.2, long.flag.set)
    start = time.monotonic()
    assert long.decode() == ABORTED
    assert 0.1 <= time.monotonic() - start < SOON
    timer.join()
    assert long.flag.is_set
    assert long.flag.take_exception() is None
    assert long.decode(4) == ABORTED
    long.flag.clear()
    assert long.decode(4) == 0


@in_the_middle
def test_a_deadline_stops_it(long: Long) -> None:
    start = time.monotonic()
    long.flag.deadline = start + 0.3
    assert long.flag.deadline == pytest.approx(start + 0.3, abs=0.05)
    assert not long.flag.expired
    assert long.decode() == ABORTED
    assert 0.25 <= time.monotonic() - start < SOON
    assert long.flag.expired
    assert not long.flag.is_set
    assert long.decode(4) == ABORTED
    long.flag.deadline = None
    assert long.flag.deadline is None
    assert long.decode(4) == 0


@pytest.mark.parametrize("moment", [float("-inf"), -1e30])
def test_a_deadline_long_past_stops_it(long: Long, moment: float) -> None:
    long.flag.deadline = moment
    assert long.decode(4) == ABORTED


@pytest.mark.parametrize("moment", [float("inf"), 1e30])
def test_a_deadline_beyond_all_clocks_does_not(long: Long, moment: float) -> None:
    long.flag.deadline = moment
    assert long.decode(4) == 0


@in_the_middle
def test_ctrl_c_stops_it(long: Long) -> None:
    timer = later(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    start = time.monotonic()
    try:
        code = long.decode()
    except KeyboardInterrupt:
        pytest.fail("the interrupt went past the flag: the computation was over before it came")
    assert code == ABORTED
    assert 0.1 <= time.monotonic() - start < SOON
    timer.join()
    assert isinstance(long.flag.take_exception(), KeyboardInterrupt)
    assert long.flag.take_exception() is None
    assert not long.flag.is_set
    assert long.decode(4) == 0


@pytest.fixture
def alarm() -> Iterator[list[int]]:
    """What a handler of SIGALRM saw; it raises at the third alarm."""
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) == 3:
            raise Stopped("third alarm")

    before = signal.signal(signal.SIGALRM, handler)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@in_the_middle
def test_handlers_run_during_the_computation(long: Long, alarm: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    assert long.decode() == ABORTED
    assert len(alarm) == 3
    error = long.flag.take_exception()
    assert isinstance(error, Stopped)
    assert str(error) == "third alarm"
    with pytest.raises(Stopped):
        raise error


@in_the_middle
def test_signals_are_left_to_the_main_thread(long: Long, alarm: list[int]) -> None:
    codes: list[int] = []
    long.flag.deadline = time.monotonic() + 1.0
    thread = threading.Thread(target=lambda: codes.append(long.decode()))
    thread.start()
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(Stopped):
            # Not in join(), which takes an interrupted wait for the thread's end before Python 3.13.
            time.sleep(5)
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        thread.join()
    assert codes == [ABORTED]
    assert long.flag.expired
    assert long.flag.take_exception() is None


def test_an_idle_check_is_next_to_free() -> None:
    flag = AbortFlag()
    flag.arm()
    flag.deadline = time.monotonic() + 100
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10_000):
            helpers.lib.lch_abort_check(flag.data)
        best = min(best, time.perf_counter() - start)
    # Nearly all of it is the way from Python to C.
    assert best / 10_000 < 2e-6
