"""The generator of speech: a frame at a time, on a context of its own."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Audio, Context, ContextOptions, Model, Projector, SpeechGenerator
from llama_cffi.core.cpu_topology import usable_cpus
from llama_cffi.errors import (
    BatchError,
    ClosedError,
    ContextError,
    ContextOverflowError,
    LlamaCffiError,
    MediaError,
    UnsupportedError,
)
from tests.support.media_kinds import tone
from tests.support.media_models import GEMMA3_SHAPE, write_text_model
from tests.support.speech_models import FRAME, NAMES, WINDOW, SpeakingModel, SpeechName, write_speaking_model

OPTIONS = ContextOptions(
    n_ctx=512, n_batch=512, n_ubatch=128, n_threads=1, embeddings=True, pooling="none", flash_attn="disabled"
)


@pytest.fixture(scope="module", params=NAMES)
def speaking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeakingModel:
    name: SpeechName = request.param
    return write_speaking_model(tmp_path_factory.mktemp(name), name)


@pytest.fixture(scope="module")
def opened(speaking: SpeakingModel) -> Iterator[tuple[Model, Projector]]:
    with Model(speaking.model) as model, Projector(model, speaking.projector, n_threads=1) as projector:
        yield model, projector


@pytest.fixture
def generator(opened: tuple[Model, Projector]) -> Iterator[SpeechGenerator]:
    model, projector = opened
    with Context(model, OPTIONS, own_threads=True) as context:
        yield SpeechGenerator(context, projector)


def spoken(generator: SpeechGenerator, n: int) -> int:
    """Generate at most ``n`` frames greedily, among the tokens that the model may say; returns how many there are."""
    allowed = np.ones(generator.context.n_vocab, dtype=bool)
    allowed[list(generator.context.model.vocab.known_suppress_tokens)] = False
    for i in range(n):
        logits = np.where(allowed, generator.context.outputs.logits(), -np.inf)
        if not generator.step(int(logits.argmax())):
            return i
    return n


def test_what_the_projector_says(speaking: SpeakingModel, opened: tuple[Model, Projector]) -> None:
    projector = opened[1]
    assert (projector.speech, projector.speech_rate, projector.voices) == (speaking.name, 24000, True)
    # Its encoder of sound is for voices.
    assert (projector.audio, projector.vision) == (False, False)
    assert repr(projector) == f"<Projector {speaking.projector.name!r}: speech>"
    with pytest.raises(UnsupportedError, match="takes no sound"):
        projector.tokenize(Audio(tone(220)))


def test_frames_become_samples(speaking: SpeakingModel, generator: SpeechGenerator) -> None:
    size, window = FRAME[speaking.name], WINDOW[speaking.name]
    assert generator.sample_rate == 24000
    generator.start("Hello there")
    assert generator.read(4)  # the prompt is longer
    while generator.read(4):
        pass
    first = generator.n_past
    assert spoken(generator, window) == window
    assert generator.n_past == first + window
    assert generator.settled
    piece = generator.samples()
    assert piece.shape == (window * size,)
    assert np.abs(piece).max() <= 1
    assert piece.std() > 0
    assert generator.samples(len(piece)).shape == (0,)
    assert spoken(generator, 3) == 3
    assert not generator.settled
    assert generator.samples(len(piece)).shape == (3 * size,)
    # A text after it begins anew.
    generator.start("Hello there")
    while generator.read(4):
        pass
    assert generator.n_past == first
    spoken(generator, window)
    assert np.array_equal(generator.samples(), piece)


def test_pieces_between_windows_would_change_what_follows(speaking: SpeakingModel, generator: SpeechGenerator) -> None:
    """Why there is a number of frames for each kind: what libmtmd makes of a window that is not full."""
    window = WINDOW[speaking.name]

    def whole(cut: int) -> list[float]:
        generator.start("Hello")
        while generator.read(64):
            pass
        spoken(generator, cut)
        if cut:
            generator.samples()
        spoken(generator, window - cut)
        found: list[float] = generator.samples().tolist()
        return found

    same = np.allclose(whole(window // 2), whole(0), atol=1e-4)
    assert same == (speaking.name == "pockettts")


@pytest.mark.parametrize("method", ["step", "read first"])
def test_calls_in_a_wrong_order(generator: SpeechGenerator, method: str) -> None:
    if method == "step":
        with pytest.raises(BatchError, match="no prompt"):
            generator.step(0)
        return
    generator.start("Hello")
    assert generator.read(1)
    with pytest.raises(BatchError, match="no prompt"):
        generator.step(0)
    with pytest.raises(ValueError, match="n_tokens"):
        generator.read(0)
    with pytest.raises(ValueError, match="n_tokens"):
        generator.read(513)


def test_contexts_that_cannot_be_used(speaking: SpeakingModel, opened: tuple[Model, Projector]) -> None:
    model, projector = opened
    with Context(model, ContextOptions(n_ctx=64)) as plain, pytest.raises(ContextError, match="embeddings"):
        SpeechGenerator(plain, projector)
    shared = replace(OPTIONS, n_threads=usable_cpus())
    with Context(model, shared) as context, pytest.raises(ContextError, match="threads of its own"):
        SpeechGenerator(context, projector)
    with (
        Model(speaking.model) as other,
        Context(other, OPTIONS, own_threads=True) as context,
        pytest.raises(ValueError, match="one Model"),
    ):
        SpeechGenerator(context, projector)


def test_a_prompt_without_room(opened: tuple[Model, Projector]) -> None:
    model, projector = opened
    small = ContextOptions(n_ctx=32, n_batch=32, embeddings=True, pooling="none", n_threads=1)
    with Context(model, small, own_threads=True) as context:
        generator = SpeechGenerator(context, projector)
        generator.start("more words than fit " * 100)
        with pytest.raises(ContextOverflowError, match="positions"):
            generator.read(32)
        with pytest.raises(BatchError, match="start"):
            generator.read(32)
        generator.start("Hi")
        while generator.read(32):
            pass
        assert spoken(generator, 2) == 2


def test_voices(speaking: SpeakingModel, generator: SpeechGenerator) -> None:
    def said(voice: Audio | None) -> list[float]:
        generator.start("Hello", voice=voice)
        while generator.read(64):
            pass
        spoken(generator, 8)
        found: list[float] = generator.samples().tolist()
        return found

    plain, low, high = said(None), said(Audio(tone(220))), said(Audio(tone(2000)))
    assert plain != low != high != plain
    assert said(Audio(tone(220))) == low
    short = Audio(np.zeros(20, dtype=np.float32), 24000)
    if speaking.name == "qwen3tts":
        with pytest.raises(MediaError, match="speech failed"):
            generator.start("Hello", voice=short)
    assert said(None) == plain


def test_languages(speaking: SpeakingModel, generator: SpeechGenerator) -> None:
    if speaking.name == "qwen3tts":
        with pytest.raises(MediaError, match="unknown language 'klingon'"):
            generator.start("Hello", language="klingon")
        generator.start("Hello", language="de")
    else:
        generator.start("Hello", language="klingon")  # the model has one language


def test_an_empty_text(speaking: SpeakingModel, generator: SpeechGenerator) -> None:
    if speaking.name == "pockettts":
        with pytest.raises(MediaError, match="empty prompt"):
            generator.start("")
        with pytest.raises(BatchError, match="start"):
            generator.samples()
    else:
        generator.start("")  # it has tokens of its own around the text


def test_projectors_that_do_not_speak(tmp_path: Path, assets: Path) -> None:
    path = write_text_model(tmp_path / "sees.gguf", "gemma3", GEMMA3_SHAPE)
    with (
        Model(path) as model,
        Projector(model, assets / "models" / "mmproj-tinygemma3.gguf", warmup=False) as projector,
        Context(model, OPTIONS, own_threads=True) as context,
    ):
        assert (projector.speech, projector.speech_rate, projector.voices) == (None, None, False)
        with pytest.raises(UnsupportedError, match="no speech"):
            SpeechGenerator(context, projector)


def test_a_cut_projector(speaking: SpeakingModel, opened: tuple[Model, Projector], tmp_path: Path) -> None:
    data = speaking.projector.read_bytes()
    for part in (0.2, 0.9, 0.999):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(data[: int(part * len(data))])
        with pytest.raises(LlamaCffiError):
            Projector(opened[0], cut)


@pytest.mark.parametrize("first", ["context", "projector", "model", "generator"])
def test_it_goes_before_what_it_belongs_to(speaking: SpeakingModel, first: str) -> None:
    model = Model(speaking.model)
    projector, context = Projector(model, speaking.projector, n_threads=1), Context(model, OPTIONS, own_threads=True)
    generator = SpeechGenerator(context, projector)
    generator.start("Hello")
    {"context": context, "projector": projector, "model": model, "generator": generator}[first].close()
    assert generator.closed
    assert repr(generator) == "<SpeechGenerator: closed>"
    with pytest.raises(ClosedError):
        generator.read(8)
    model.close()


def test_it_keeps_what_it_needs(speaking: SpeakingModel) -> None:
    model = Model(speaking.model)
    context = Context(model, OPTIONS, own_threads=True)
    generator = SpeechGenerator(context, Projector(model, speaking.projector, n_threads=1))
    del context
    del model
    gc.collect()
    generator.start("Hello")
    while generator.read(64):
        pass
    assert spoken(generator, 2) == 2
