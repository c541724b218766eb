"""Texts that a model in a process of its own reads aloud."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from llama_cffi import AsyncLlama, Audio, FinishReason, Llama
from llama_cffi.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    EngineCrashed,
    MediaError,
    PromptError,
    UnsupportedError,
)
from tests.support.media_kinds import tone
from tests.support.speech_models import SpeakingModel, SpeechName, write_speaking_model

TEXT = "Hello there, how are you?"
LONG = "word " * 100
SECONDS = 30


def opened(made: SpeakingModel, **options: Any) -> Llama:
    return Llama(made.model, **{"mmproj": made.projector, "n_ctx": 1024, "n_threads": 1, **options})


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> SpeakingModel:
    return write_speaking_model(tmp_path_factory.mktemp("pocket"), "pockettts")


@pytest.fixture(scope="module")
def here(pocket: SpeakingModel) -> Iterator[Llama]:
    with opened(pocket) as llm:
        yield llm


@pytest.fixture(scope="module")
def there(pocket: SpeakingModel) -> Iterator[Llama]:
    with opened(pocket, isolate=True) as llm:
        yield llm


def pid(llm: Llama) -> int:
    found = llm._runtime.pid  # type: ignore[attr-defined]
    assert isinstance(found, int)
    return found


def stopped(llm: Llama, call: Callable[[], Any]) -> Any:
    """Return what a call returns during which the process of a model was stopped, and then killed."""
    child = pid(llm)
    os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(call)
        try:
            supervisor = llm._runtime._supervisor  # type: ignore[attr-defined]
            while not supervisor._calls and not called.done():
                time.sleep(0.001)
        finally:
            os.kill(child, signal.SIGKILL)
        return called.result(SECONDS)


def test_it_sounds_as_in_this_process(here: Llama, there: Llama) -> None:
    assert here.projector is not None
    assert there.projector is not None
    for name in ("speech", "speech_rate", "voices"):
        assert getattr(there.projector, name) == getattr(here.projector, name), name
    cases: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"voice": Audio(tone(330))}]
    for case in cases:
        options: dict[str, Any] = {"max_frames": 20, "seed": 3, **case}
        expected = list(here.stream_speech(TEXT, **options))
        with there.stream_speech(TEXT, **options) as stream:
            assert stream.sample_rate == 24000
            pieces = list(stream)
            assert (stream.n_frames, stream.finish_reason) == (20, FinishReason.LENGTH)
            assert stream.n_prompt > 0
        assert len(pieces) == len(expected) == 3
        assert np.array_equal(np.concatenate(pieces), np.concatenate(expected))
    assert there.speak(TEXT, max_frames=4, seed=1) == here.speak(TEXT, max_frames=4, seed=1)


@pytest.mark.conformance
def test_the_other_kind(tmp_path_factory: pytest.TempPathFactory) -> None:
    name: SpeechName = "qwen3tts"
    made = write_speaking_model(tmp_path_factory.mktemp(name), name)
    with opened(made) as here, opened(made, isolate=True) as there:
        options: Any = {"max_frames": 80, "seed": 5, "language": "de", "voice": Audio(tone(330))}
        assert there.speak(TEXT, **options) == here.speak(TEXT, **options)
        with pytest.raises(MediaError, match="unknown language 'klingon'"):
            there.speak(TEXT, language="Klingon")


def test_what_is_refused(there: Llama) -> None:
    with pytest.raises(PromptError, match="no text"):
        there.stream_speech(" ")
    with pytest.raises(ValueError, match="max_frames"):
        there.stream_speech(TEXT, max_frames=0)


@pytest.mark.conformance
def test_a_model_without_a_projector(pocket: SpeakingModel) -> None:
    with opened(pocket, mmproj=None, isolate=True) as silent, pytest.raises(UnsupportedError, match="mmproj"):
        silent.speak(TEXT)
    with pytest.raises(ClosedError):
        silent.speak(TEXT)


def test_one_speech_at_a_time(there: Llama) -> None:
    expected = there.speak(TEXT, max_frames=6, seed=1)
    with there.stream_speech(TEXT, max_frames=300) as stream, ThreadPoolExecutor(20) as pool:
        next(stream)
        with pytest.raises(BusyError, match="middle of another speech"):
            there.speak(TEXT, max_frames=2)
        # More than the other process has threads for calls: those that wait keep none of them.
        waiting = [pool.submit(there.speak, TEXT, max_frames=6, seed=1) for _ in range(20)]
        late = there.stream_speech(TEXT, max_seconds=0.05)
        with pytest.raises(AbortedError, match="deadline"):
            asyncio.run(asyncio.to_thread(late.result))
        assert there.embed([TEXT]) is not None
        next(stream)
        stream.close()
        assert [one.result(SECONDS) for one in waiting] == [expected] * 20


def test_cancelling(there: Llama) -> None:
    stream = there.stream_speech(TEXT)
    stream.close()
    assert list(stream) == []
    assert stream.finish_reason is FinishReason.CANCELLED
    stream = there.stream_speech(LONG)
    next(stream)
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    stream.close()
    reader.join(SECONDS)
    assert not reader.is_alive()
    assert stream.finish_reason is FinishReason.CANCELLED
    dropped = there.stream_speech(LONG)
    next(dropped)
    del dropped
    with pytest.raises(AbortedError, match="deadline"):
        there.speak(TEXT, max_seconds=1e-6)
    assert there.speak(TEXT, max_frames=2).n_samples


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_a_signal_handler_ends_a_speech(there: Llama) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def endless() -> None:
        while True:
            there.speak(LONG)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            endless()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert there.speak(TEXT, max_frames=2).n_samples


@pytest.mark.conformance
def test_coroutines(here: Llama, pocket: SpeakingModel) -> None:
    async def main() -> Audio:
        async with AsyncLlama(pocket.model, mmproj=pocket.projector, n_ctx=1024, n_threads=1, isolate=True) as llm:
            async with llm.stream_speech(LONG) as stream:
                await anext(stream)
            return await llm.speak(TEXT, max_frames=6, seed=1)

    assert asyncio.run(main()) == here.speak(TEXT, max_frames=6, seed=1)


@pytest.mark.conformance
def test_a_crash(pocket: SpeakingModel, here: Llama) -> None:
    expected = here.speak(TEXT, max_frames=6, seed=1)
    with opened(pocket, isolate=True) as llm:
        begun = llm.stream_speech(LONG)
        next(begun)
        # While it is read, and while it is not.
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            stopped(llm, lambda: next(begun))
        with pytest.raises(StopIteration):
            next(begun)
        assert begun.finish_reason is None
        idle = llm.stream_speech(LONG)
        next(idle)
        before = pid(llm)
        os.kill(before, signal.SIGKILL)
        while llm._runtime.pid == before:  # type: ignore[attr-defined]
            time.sleep(0.001)
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            next(idle)
        assert llm.speak(TEXT, max_frames=6, seed=1) == expected
        assert pid(llm) != before


def test_a_speech_that_is_begun_again(pocket: SpeakingModel, here: Llama) -> None:
    expected = here.speak(TEXT, max_frames=6, seed=1)
    with opened(pocket, isolate=True, replay=True) as llm:
        assert stopped(llm, lambda: llm.speak(TEXT, max_frames=6, seed=1)) == expected
        with llm.stream_speech(LONG) as begun:
            next(begun)
            with pytest.raises(EngineCrashed, match="SIGKILL"):
                stopped(llm, lambda: next(begun))
        assert llm.speak(TEXT, max_frames=6, seed=1) == expected
        left = llm.stream_speech(LONG)
        next(left)
    with pytest.raises(ClosedError):
        next(left)
