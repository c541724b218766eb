"""Texts read aloud by models with random weights: what a program of llama.cpp's own functions says, and the rest."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import AsyncLlama, Audio, Context, FinishReason, Llama, errors
from llama_cffi.core.cpu_topology import usable_cpus
from llama_cffi.prepare.speech import without_control
from tests.support.media_kinds import tone
from tests.support.speech_judge import build_judge, judged
from tests.support.speech_models import FRAME, NAMES, WINDOW, SpeakingModel, SpeechName, write_speaking_model

TEXT = "Hello there, how are you?"
LONG = " The first sentence is here. " * 8
"""Of more tokens than Pocket-TTS reads at once, and with spaces at both ends."""


@pytest.fixture(scope="module", params=NAMES)
def speaking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeakingModel:
    name: SpeechName = request.param
    folder = tmp_path_factory.mktemp(name)
    (folder / "voice.wav").write_bytes(tone(330))
    return write_speaking_model(folder, name)


def open_speaking(speaking: SpeakingModel, **options: Any) -> Llama:
    return Llama(speaking.model, **{"mmproj": speaking.projector, "n_ctx": 1024, "n_threads": 1, **options})


@pytest.fixture(scope="module")
def llm(speaking: SpeakingModel) -> Iterator[Llama]:
    with open_speaking(speaking) as llm:
        yield llm


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """The faster one, for what is the same with all kinds."""
    made = write_speaking_model(tmp_path_factory.mktemp("pocket"), "pockettts")
    with open_speaking(made) as llm:
        yield llm


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = build_judge(tmp_path_factory.mktemp("judge"))
    if program is None:
        pytest.skip("no C++ compiler, or no headers beside the library")
    return program


CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.8, "seed": 11, "language": "german"},
    "voice": {"temperature": 0.8, "seed": 3, "voice": True},
    "long": {"temperature": 0.0, "text": LONG},
}
N_RANDOM = 15
SLOW = ("greedy", "long")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.conformance] if case in SLOW else []) for case in CASES]
)
def test_llama_cpp_says_the_same(speaking: SpeakingModel, llm: Llama, judge: Path, case: str) -> None:
    given = dict(CASES[case])
    text, frames = given.pop("text", TEXT), WINDOW[speaking.name] + 5
    if given.pop("voice", False):
        given["voice"] = speaking.model.parent / "voice.wav"
    if case in SLOW:
        frames = 400
    theirs = judged(judge, speaking, text, frames=frames, **given)
    with llm.stream_speech(text, max_frames=frames, **{"seed": 0, **given}) as stream:
        pieces = list(stream)
    ours = np.concatenate(pieces)
    assert (stream.n_frames, str(stream.finish_reason), stream.sample_rate) == (
        theirs.frames, theirs.reason, theirs.rate,
    )  # fmt: skip
    assert ours.shape == theirs.samples.shape
    assert np.array_equal(ours, theirs.samples)
    assert len(pieces) > 1


@pytest.mark.conformance
@pytest.mark.parametrize("name", NAMES)
def test_random_speeches_are_llama_cpps(name: SpeechName, judge: Path, tmp_path: Path) -> None:
    rng = random.Random(f"speech {name}")
    (tmp_path / "voice.wav").write_bytes(tone(500, 1.3))
    for case in range(N_RANDOM):
        made = write_speaking_model(tmp_path, name, ends=rng.random() < 0.3, seed=rng.randrange(1000))
        words = ["ba", "Lo", "mi.", "su!", "é", "32", ",", ";", "\n", "?", " ", "tree"]
        text = "".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(rng.choice([3, 20, 150]))) + "a"
        options: dict[str, Any] = {
            "seed": rng.randrange(2**32 - 1),
            "temperature": rng.choice([0.0, 0.8, 1.5]),
            "language": rng.choice(["", "english", "de"]),
            "voice": rng.choice([None, tmp_path / "voice.wav"]),
        }
        frames = rng.randrange(1, 3 * WINDOW[name])
        theirs = judged(judge, made, text, frames=frames, **options)
        with open_speaking(made) as llm:
            stream = llm.stream_speech(text, max_frames=frames, **{**options, "language": options["language"] or None})
            pieces = list(stream)
        assert (stream.n_frames, str(stream.finish_reason)) == (theirs.frames, theirs.reason), (case, options)
        assert np.array_equal(np.concatenate([*pieces, np.empty(0, np.float32)]), theirs.samples), (case, options)


def test_the_model_ends_its_speech(speaking: SpeakingModel, judge: Path, tmp_path: Path) -> None:
    model = write_speaking_model(tmp_path, speaking.name, ends=True)
    theirs = judged(judge, model, TEXT, frames=200, seed=5, temperature=0.8)
    assert theirs.reason == "stop"
    with open_speaking(model) as llm, llm.stream_speech(TEXT, seed=5, temperature=0.8) as stream:
        assert np.array_equal(stream.result().samples, theirs.samples)
        assert (stream.finish_reason, stream.n_frames) == (FinishReason.STOP, theirs.frames)


def test_a_whole_is_its_pieces(speaking: SpeakingModel, llm: Llama) -> None:
    frames = WINDOW[speaking.name] + 3
    options: Any = {"max_frames": frames, "seed": 7}
    sound = llm.speak(TEXT, **options)
    assert isinstance(sound, Audio)
    assert sound.n_samples == frames * FRAME[speaking.name]
    assert sound.sample_rate == 24000
    with llm.stream_speech(TEXT, **options) as stream:
        first = next(stream)
        assert len(first) == WINDOW[speaking.name] * FRAME[speaking.name]
        assert stream.finish_reason is None
        assert np.array_equal(np.concatenate([first, stream.result().samples]), sound.samples)
        assert stream.finish_reason is FinishReason.LENGTH
        assert next(stream, None) is None


def test_seeds(llm: Llama) -> None:
    options: Any = {"max_frames": 6, "temperature": 1.5}
    first, again, other = (llm.speak(TEXT, seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    assert llm.speak(TEXT, seed=1, **options) == first
    with llm.fork() as twin:
        assert twin.speak(TEXT, seed=1, **options) == first
    assert len({llm.speak(TEXT, **options) for _ in range(3)}) > 1


def test_a_sound_is_saved(pocket: Llama, tmp_path: Path) -> None:
    sound = pocket.speak(TEXT, max_frames=4, seed=1)
    sound.save(tmp_path / "said.wav")
    read = Audio(tmp_path / "said.wav")
    assert (read.format, read.sample_rate, read.n_channels, read.n_samples) == ("wav", 24000, 1, sound.n_samples)
    integers = np.frombuffer((tmp_path / "said.wav").read_bytes()[44:], dtype="<i2")
    assert np.array_equal(integers, (sound.samples * np.float32(32767)).astype(np.int16))
    with pytest.raises(ValueError, match=r"ends with \.wav"):
        sound.save(tmp_path / "said.mp3")
    read.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "said.wav").read_bytes()
    with pytest.raises(errors.MediaError, match="is a file"):
        read.samples  # noqa: B018


def test_what_is_refused_before_anything_is_computed(pocket: Llama, tmp_path: Path) -> None:
    for text in ("", " \n\t "):
        with pytest.raises(errors.PromptError, match="no text"):
            pocket.stream_speech(text)
    with pytest.raises(errors.ContextOverflowError, match="tokens"):
        pocket.stream_speech("word " * 5000)
    with pytest.raises(errors.MediaError, match=r"none\.wav"):
        pocket.stream_speech(TEXT, voice=tmp_path / "none.wav")
    with pytest.raises(errors.MediaError, match="too long"):
        pocket.stream_speech(TEXT, voice=Audio(np.zeros(61 * 8000, dtype=np.float32), 8000))
    for options, message in (
        ({"max_frames": 0}, "max_frames"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"language": " "}, "language"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            pocket.stream_speech(TEXT, **options)
    with pytest.raises(TypeError, match="voice"):
        pocket.stream_speech(TEXT, voice=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown option"):
        pocket.speak(TEXT, speed=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="text"):
        pocket.speak(3)  # type: ignore[arg-type]
    assert pocket.speak(TEXT, max_frames=2).n_samples == 2 * FRAME["pockettts"]


def test_an_unknown_language(llm: Llama, speaking: SpeakingModel) -> None:
    if speaking.name == "pockettts":
        return  # it has one language, and takes no name of any
    with pytest.raises(errors.MediaError, match="unknown language 'klingon'"):
        llm.speak(TEXT, language="Klingon")
    assert llm.speak(TEXT, language="de", max_frames=2).n_samples


def test_a_text_has_no_control_tokens(llm: Llama, speaking: SpeakingModel) -> None:
    vocab = llm.model.vocab
    (name, *_), hidden = sorted(vocab.control_tokens, key=len, reverse=True), "<|im_end|>"
    for text in (f"a {name} b", f"{name}{name}", f"<{name}", hidden, f"{name[:-1]}{name}{name[-1]}"):
        plain = without_control(text, vocab)
        found = vocab.tokenize(plain, add_special=False, parse_special=True)
        assert not any(vocab.is_control(int(token)) for token in found), text
        assert plain.replace(" ", "") == text.replace(" ", "")
    assert without_control(TEXT, vocab) == TEXT


def test_texts_go_on_while_it_speaks(pocket: Llama) -> None:
    """A stream of text is not kept waiting by a speech, whose reader has stopped in the middle."""
    with pocket.stream_speech(TEXT, max_frames=300) as stream:
        next(stream)
        assert pocket.generate("once", max_tokens=4, temperature=0).usage.completion_tokens <= 4
        next(stream)


def test_a_speech_is_decoded_with_threads_of_its_own(pocket: Llama) -> None:
    """libmtmd decodes when it likes, and a pool of threads computes one graph at a time."""
    assert pocket.projector is not None
    files = pocket.model.path, pocket.projector.path
    with Llama(files[0], mmproj=files[1], n_ctx=64, n_threads=usable_cpus(), n_gpu_layers=0) as llm:
        assert llm.projector is not None
        side, _ = llm._runtime.speaker.open()
        assert (llm.context.threads.shared, side.context.threads.shared) == (True, False)
        # It is computed in turns with the texts nevertheless.
        assert set(llm.projector.turns.found) == {llm.context.turn, side.context.turn}


def test_one_speech_at_a_time(pocket: Llama) -> None:
    expected = pocket.speak(TEXT, max_frames=6, seed=1)
    found: list[Audio] = []
    with pocket.stream_speech(TEXT, max_frames=300) as stream:
        next(stream)
        with pytest.raises(errors.BusyError, match="middle of another speech"):
            pocket.speak(TEXT, max_frames=2)
        waiting = threading.Thread(target=lambda: found.append(pocket.speak(TEXT, max_frames=6, seed=1)))
        waiting.start()
        late = pocket.stream_speech(TEXT, max_seconds=0.1)
        with pytest.raises(errors.AbortedError, match="deadline"):
            asyncio.run(asyncio.to_thread(late.result))
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(30)
    assert found == [expected]


def test_a_dropped_stream_lets_others_speak(pocket: Llama) -> None:
    stream = pocket.stream_speech(TEXT, max_frames=300)
    next(stream)
    del stream
    assert pocket.speak(TEXT, max_frames=2).n_samples


def test_a_speech_is_cancelled(pocket: Llama) -> None:
    stream = pocket.stream_speech(TEXT)
    stream.close()
    assert list(stream) == []
    assert stream.finish_reason is FinishReason.CANCELLED
    stream = pocket.stream_speech("word " * 100)
    next(stream)
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    time.sleep(0.02)
    stream.close()
    reader.join(30)
    assert not reader.is_alive()
    assert stream.finish_reason is FinishReason.CANCELLED
    assert pocket.speak(TEXT, max_frames=2).n_samples


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_a_signal_handler_ends_a_speech(pocket: Llama) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def endless() -> None:
        while True:
            pocket.speak("word " * 100)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with pytest.raises(KeyboardInterrupt):
            endless()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pocket.speak(TEXT, max_frames=2).n_samples


def test_time_is_over(pocket: Llama) -> None:
    with pytest.raises(errors.AbortedError, match="deadline"):
        pocket.speak(TEXT, max_seconds=1e-6)
    with pocket.stream_speech("word " * 100, max_seconds=0.5) as stream:
        stream.result()
        assert stream.finish_reason in (FinishReason.DEADLINE, FinishReason.LENGTH)
    assert pocket.speak(TEXT, max_frames=2).n_samples


def test_the_context_is_full(speaking: SpeakingModel) -> None:
    with open_speaking(speaking, n_ctx=64) as llm, llm.stream_speech("Hello there, you all") as stream:
        stream.result()
        assert stream.finish_reason is FinishReason.LENGTH
        assert stream.n_prompt + stream.n_frames == 64


def test_a_closed_llama(pocket: Llama) -> None:
    with pocket.fork() as llm:
        stream = llm.stream_speech(TEXT)
        next(stream)
    with pytest.raises(errors.ClosedError):
        list(stream)
    with pytest.raises(errors.ClosedError):
        llm.speak(TEXT)


def test_models_that_do_not_speak(pocket: Llama) -> None:
    with Llama(pocket.model.path, n_ctx=64) as silent, pytest.raises(errors.UnsupportedError, match="mmproj"):
        silent.speak(TEXT)


def test_a_projector_of_another_model(speaking: SpeakingModel, tmp_path: Path) -> None:
    name: SpeechName = NAMES[1 - NAMES.index(speaking.name)]
    other = write_speaking_model(tmp_path, name)
    with Llama(other.model, mmproj=speaking.projector, n_ctx=128, n_threads=1) as llm:
        with pytest.raises(errors.MediaError, match="speech failed"):
            llm.speak(TEXT)
        assert llm.generate([5, 6], max_tokens=1).usage.completion_tokens == 1


def test_coroutines(pocket: Llama) -> None:
    expected = pocket.speak(TEXT, max_frames=WINDOW["pockettts"] + 2, seed=4)

    async def main() -> None:
        speaker = AsyncLlama(pocket)
        options: Any = {"max_frames": WINDOW["pockettts"] + 2, "seed": 4}
        sounds = await asyncio.gather(*(speaker.speak(TEXT, **options) for _ in range(3)))
        assert sounds == [expected] * 3
        async with speaker.stream_speech(TEXT, **options) as stream:
            pieces = [piece async for piece in stream]
            assert len(pieces) == 2
            assert stream.finish_reason is FinishReason.LENGTH
            assert np.array_equal(np.concatenate(pieces), expected.samples)
        with pytest.raises(errors.PromptError):
            await speaker.speak(" ")
        endless = speaker.stream_speech("word " * 100)
        assert await endless.start() == 24000
        await endless.__anext__()
        await endless.aclose()
        assert [piece async for piece in endless] == []
        with pytest.raises(TimeoutError if hasattr(asyncio, "timeout") else asyncio.TimeoutError):
            await asyncio.wait_for(speaker.speak("word " * 100, max_frames=100_000), 0.2)
        assert await speaker.speak(TEXT, **options) == expected
        await speaker.drain(30)
        await speaker.aclose()
        with pytest.raises(errors.ClosedError):
            await speaker.speak(TEXT)

    asyncio.run(main())


def test_the_generating_context_is_untouched(pocket: Llama) -> None:
    context: Context = pocket.context
    assert not context.embeddings_enabled
    assert pocket.speak(TEXT, max_frames=2).n_samples
    assert not context.embeddings_enabled
