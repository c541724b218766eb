"""What a projector makes of media, against libmtmd's own helper functions on the same files."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import (
    Audio,
    Batch,
    Context,
    ContextOptions,
    EmbeddingBatch,
    Image,
    MediaChunk,
    Model,
    Projector,
    Video,
)
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.media.projector_memory import projector_memory
from llama_cffi.errors import (
    AbortedError,
    BatchError,
    ClosedError,
    MediaError,
    ModelFileError,
    ModelLoadCancelled,
    ModelNotFoundError,
    UnsupportedError,
)
from tests.support.children import run_child
from tests.support.media_models import (
    GEMMA3_SHAPE,
    HEARING_SHAPE,
    QWEN2VL_SHAPE,
    write_audio_projector,
    write_text_model,
    write_vision_projector,
)
from tests.support.media_reference import open_reference
from tests.support.pictures import pictures, png, scene
from tests.support.sounds import flac, mp3, tone, wav

KINDS = ("gemma3", "qwen2vl", "ultravox")


@dataclass
class Seeing:
    """A model and its projector."""

    model: Model
    projector: Projector
    path: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Iterator[dict[str, Seeing]]:
    """By kind; tests must not close them."""
    folder = tmp_path_factory.mktemp("media")
    found: dict[str, Seeing] = {}
    trained = assets / "models" / "mmproj-tinygemma3.gguf"
    if not trained.is_file():
        pytest.skip(f"no {trained}")
    files = {
        "gemma3": (write_text_model(folder / "gemma3.gguf", "gemma3", GEMMA3_SHAPE), trained),
        "qwen2vl": (
            write_text_model(folder / "qwen2vl.gguf", "qwen2vl", QWEN2VL_SHAPE),
            write_vision_projector(folder / "mmproj-qwen2vl.gguf"),
        ),
        "ultravox": (
            write_text_model(folder / "llama.gguf", "llama", HEARING_SHAPE),
            write_audio_projector(folder / "mmproj-ultravox.gguf"),
        ),
    }
    for name, (text, path) in files.items():
        model = Model(text)
        found[name] = Seeing(model, Projector(model, path, n_threads=1, warmup=False), path)
    yield found
    for one in found.values():
        one.model.close()


def context_of(model: Model) -> Context:
    return Context(model, ContextOptions(n_ctx=2048, n_batch=512, n_ubatch=512, n_threads=1, flash_attn="disabled"))


def decode(
    context: Context, model: Model, pieces: list[list[int] | MediaChunk], embeddings: list[NDArray[np.float32]]
) -> int:
    """Decode pieces in sequence 0, with the logits of the last token; returns the position behind them."""
    pos, left = 0, iter(embeddings)
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        if isinstance(piece, list):
            tokens = Batch(len(piece))
            tokens.extend(piece, pos, output_last=last)
            context.decode(tokens)
            pos += len(piece)
        else:
            rows, places = next(left), piece.positions(pos)
            for start in range(0, piece.n_tokens, context.n_batch):
                part = slice(start, start + context.n_batch)
                at = pos + start if places is None else np.ascontiguousarray(places[:, part])
                batch = EmbeddingBatch(model, rows[part], at, output_last=last)
                batch.decode(context, causal_attn=not piece.non_causal)
            pos += piece.n_positions
    return pos


def joined(*parts: list[list[int] | MediaChunk]) -> list[list[int] | MediaChunk]:
    """Pieces with neighboring lists of tokens made one."""
    found: list[list[int] | MediaChunk] = []
    for piece in (piece for part in parts for piece in part):
        if found and isinstance(piece, list) and isinstance(found[-1], list):
            found[-1] = [*found[-1], *piece]
        else:
            found.append(piece)
    return found


def compare(seeing: Seeing, media: Image | Audio | Video, data: bytes, ffmpeg: Path | None = None) -> None:
    """Shapes, tokens, embeddings and positions, and the logits behind a text, the medium and a text."""
    model, projector = seeing.model, seeing.projector
    vocab = model.vocab
    with context_of(model) as ours, context_of(model) as theirs:
        with open_reference(model, seeing.path) as reference:
            expected = reference.evaluate(theirs, "Look: ", data, " What is it?", ffmpeg=ffmpeg)
        before = [int(vocab.bos or 0), *vocab.tokenize("Look: ", add_special=False).tolist()]
        after = vocab.tokenize(" What is it?", add_special=False).tolist()
        pieces = joined([before], projector.tokenize(media), [after])
        shapes = [
            ("text", len(one), len(one)) if isinstance(one, list) else (one.kind, one.n_tokens, one.n_positions)
            for one in pieces
        ]
        assert shapes == expected.shapes
        assert [one for one in pieces if isinstance(one, list)] == expected.tokens
        chunks = [one for one in pieces if isinstance(one, MediaChunk)]
        rows = [projector.encode(one) for one in chunks]
        assert np.allclose(np.concatenate(rows), np.concatenate(expected.embeddings), rtol=0, atol=1e-5)
        assert decode(ours, model, pieces, rows) == expected.end
        positions, pos = [], 0
        for piece in pieces:
            if isinstance(piece, list):
                pos += len(piece)
                continue
            places = piece.positions(pos)
            positions.append(np.arange(pos, pos + piece.n_tokens)[None] if places is None else places)
            pos += piece.n_positions
        assert np.array_equal(np.concatenate(positions, axis=1), np.concatenate(expected.positions, axis=1))
        assert np.allclose(ours.outputs.logits(), theirs.outputs.logits(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", pictures())
@pytest.mark.parametrize("kind", ["gemma3", "qwen2vl"])
def test_an_image_is_what_libmtmd_makes_of_it(models: dict[str, Seeing], kind: str, name: str) -> None:
    compare(models[kind], Image(pictures()[name]), pictures()[name])


SOUNDS = {
    "16 kHz": wav(tone(0.5)),
    "stereo": wav(tone(0.5, 44100), 44100, 2),
    "float": wav(tone(0.2, 8000), 8000, bits=32),
    "flac": flac(tone(0.3, 22050), 22050),
    "mp3": mp3(20),
    "two pieces": wav(tone(30.5, 4000), 4000, bits=8),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_is_what_libmtmd_makes_of_it(models: dict[str, Seeing], name: str) -> None:
    compare(models["ultravox"], Audio(SOUNDS[name]), SOUNDS[name])


FFPROBE = """#!/bin/sh
cat > /dev/null
printf 'width={}\\nheight={}\\nr_frame_rate=30/1\\nnb_frames={}\\nduration=2\\n'
"""


@pytest.mark.parametrize(("kind", "n_frames", "n_pieces"), [("gemma3", 3, 3), ("qwen2vl", 23, 12)])
def test_a_video_is_what_libmtmd_makes_of_its_frames(
    models: dict[str, Seeing], kind: str, n_frames: int, n_pieces: int, tmp_path: Path
) -> None:
    # libmtmd takes the pixels of a video from programs: these give it ours, four in a second.
    frames = [np.asarray(scene(40, 24, i)) for i in range(n_frames)]
    (tmp_path / "raw").write_bytes(b"".join(frame.tobytes() for frame in frames))
    for name, text in (
        ("ffprobe", FFPROBE.format(40, 24, len(frames))),
        ("ffmpeg", f"#!/bin/sh\ncat > /dev/null\ncat '{tmp_path}/raw'\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    video = Video(frames, [i / 4 for i in range(len(frames))])
    compare(models[kind], video, b"a video", tmp_path)
    pieces = models[kind].projector.tokenize(video)
    # Two frames are one piece for Qwen, except where a time is between them.
    assert sum(isinstance(one, MediaChunk) for one in pieces) == n_pieces


def test_arrays_are_what_files_are(models: dict[str, Seeing]) -> None:
    for kind in ("gemma3", "qwen2vl"):
        projector = models[kind].projector
        of_file = embeddings(projector, Image(pictures()["one pixel"]))
        of_array = embeddings(projector, Image(np.asarray(scene(1, 1))))
        assert np.array_equal(of_file, of_array)
        assert not np.allclose(embeddings(projector, Image(pictures()["gray"])), of_file[: len(of_file)].mean())
    projector = models["ultravox"].projector
    sound = tone(0.3, 22050)
    assert np.array_equal(
        embeddings(projector, Audio(sound, 22050)), embeddings(projector, Audio(wav(sound, 22050, bits=32)))
    )


def embeddings(projector: Projector, media: Image | Audio) -> NDArray[np.float32]:
    """Of all pieces, one after the other."""
    chunks = [one for one in projector.tokenize(media) if isinstance(one, MediaChunk)]
    return np.concatenate([projector.encode(one) for one in chunks])


def test_what_a_projector_says(models: dict[str, Seeing]) -> None:
    facts = {
        kind: (
            one.projector.vision,
            one.projector.audio,
            one.projector.sample_rate,
            one.projector.uses_mrope,
            one.projector.n_embd,
        )
        for kind, one in models.items()
    }
    assert facts == {
        "gemma3": (True, False, None, False, 128),
        "qwen2vl": (True, False, None, True, 64),
        "ultravox": (False, True, 16000, False, 64),
    }
    assert models["gemma3"].model.n_pos_per_embd == 1
    assert models["qwen2vl"].model.n_pos_per_embd == 4
    assert len({one.projector.fingerprint for one in models.values()}) == 3
    assert "vision" in repr(models["gemma3"].projector)


def test_its_memory_is_known_before_it_is_opened(models: dict[str, Seeing], tmp_path: Path) -> None:
    paths = [str(seeing.projector.path) for seeing in models.values()]
    plans = [projector_memory(path, use_gpu=False) for path in paths]
    for path, plan in zip(paths, plans, strict=True):
        weights = sum(tensor.nbytes for tensor in GGUFFile(path).tensors)
        assert list(plan) == ["CPU"]
        assert 0.9 * weights < plan["CPU"] < weights + 256 * 2**20
    with pytest.raises(ModelNotFoundError):
        projector_memory(tmp_path / "nowhere.gguf")
    # The helpers in Python read the same.
    said = run_child(f"""
        import os
        os.environ["LLAMA_CFFI_HELPERS"] = "none"
        from llama_cffi.core.media.projector_memory import projector_memory
        print([dict(projector_memory(path, use_gpu=False)) for path in {paths}])
    """)
    assert said.strip() == str(plans)


def test_tokens_around_and_causality(models: dict[str, Seeing]) -> None:
    image = Image(pictures()["gray"])
    vocab = models["gemma3"].model.vocab
    before, chunk, after = models["gemma3"].projector.tokenize(image)
    assert before == [vocab.tokenize("<start_of_image>", add_special=False, parse_special=True)[-1]]
    assert after == [vocab.tokenize("<end_of_image>", add_special=False, parse_special=True)[-1]]
    assert isinstance(chunk, MediaChunk)
    assert (chunk.kind, chunk.non_causal, chunk.positions(5)) == ("image", True, None)
    (sound,) = models["ultravox"].projector.tokenize(Audio(tone(), 16000))
    assert isinstance(sound, MediaChunk)
    assert (sound.kind, sound.n_tokens, sound.non_causal) == ("audio", 75, False)


def test_digests_are_of_content_and_projector(models: dict[str, Seeing], tmp_path: Path) -> None:
    def digest(projector: Projector, media: Image | Audio) -> list[bytes]:
        return [one.digest for one in projector.tokenize(media) if isinstance(one, MediaChunk)]

    qwen = models["qwen2vl"]
    image, other = Image(pictures()["gray"]), Image(pictures()["alpha"])
    assert digest(qwen.projector, image) == digest(qwen.projector, Image(pictures()["gray"]))
    assert digest(qwen.projector, image) != digest(qwen.projector, other)
    copied = tmp_path / "copy.gguf"
    shutil.copy(qwen.path, copied)
    with Projector(qwen.model, copied, n_threads=1, warmup=False) as twin:
        assert twin.fingerprint == qwen.projector.fingerprint
        assert digest(twin, image) == digest(qwen.projector, image)
    with Projector(qwen.model, qwen.path, n_threads=1, warmup=False, image_max_tokens=16) as smaller:
        assert smaller.fingerprint != qwen.projector.fingerprint
        (chunk,) = (one for one in smaller.tokenize(image) if isinstance(one, MediaChunk))
        assert chunk.n_tokens <= 16
        with pytest.raises(ValueError, match="made by another projector"):
            qwen.projector.encode(chunk)
    retrained = write_vision_projector(tmp_path / "retrained.gguf", seed=9)
    with Projector(qwen.model, retrained, n_threads=1, warmup=False) as another:
        assert another.fingerprint != qwen.projector.fingerprint
    long = digest(models["ultravox"].projector, Audio(SOUNDS["two pieces"]))
    assert len(set(long)) == 2


def test_several_are_encoded_together(models: dict[str, Seeing]) -> None:
    for kind, one in models.items():
        media: list[Image | Audio]
        if kind == "ultravox":
            media = [Audio(tone(frequency=f), 16000) for f in (200.0, 300.0)]
        else:
            media = [Image(pictures()[name]) for name in ("gray", "alpha", "long", "gray")]
        chunks = [part for medium in media for part in one.projector.tokenize(medium) if isinstance(part, MediaChunk)]
        chunks.append(chunks[0])
        together = one.projector.encode_many(chunks)
        assert [rows.shape for rows in together] == [(chunk.n_tokens, one.projector.n_embd) for chunk in chunks]
        for rows, chunk in zip(together, chunks, strict=True):
            assert np.allclose(rows, one.projector.encode(chunk), rtol=0, atol=1e-5)
    assert models["gemma3"].projector.encode_many([]) == []


def test_a_kind_that_is_not_taken_is_refused(models: dict[str, Seeing]) -> None:
    with pytest.raises(UnsupportedError, match="takes no sound"):
        models["gemma3"].projector.tokenize(Audio(tone(), 16000))
    with pytest.raises(UnsupportedError, match="takes no images"):
        models["ultravox"].projector.tokenize(Image(pictures()["gray"]))
    with pytest.raises(TypeError, match="must be an Image, Audio or Video"):
        models["gemma3"].projector.tokenize(b"x")  # type: ignore[arg-type]


def test_what_libmtmd_cannot_decode_is_an_error_with_its_reason(models: dict[str, Seeing]) -> None:
    no_filter = png(2, 1, zlib.compress(b"\x09" + bytes(6)))
    with pytest.raises(MediaError, match="cannot be decoded") as caught:
        models["gemma3"].projector.tokenize(Image(no_filter))
    assert "ffprobe" in str(caught.value)  # which is not looked for anywhere
    with pytest.raises(MediaError, match="too short"):
        models["ultravox"].projector.tokenize(Audio(np.zeros(1, dtype=np.float32), 16000))


def test_a_piece_outlives_its_list_and_can_be_closed(models: dict[str, Seeing]) -> None:
    projector = models["qwen2vl"].projector
    _, chunk, _ = projector.tokenize(Image(pictures()["gray"]))
    assert isinstance(chunk, MediaChunk)
    gc.collect()
    rows, places = projector.encode(chunk), chunk.positions(7)
    chunk.close()
    assert chunk.closed
    after = chunk.positions(7)
    assert places is not None
    assert after is not None
    assert np.array_equal(places, after)
    with pytest.raises(ClosedError):
        projector.encode(chunk)
    with pytest.raises(ClosedError):
        projector.encode_many([chunk])
    assert rows.shape == (chunk.n_tokens, projector.n_embd)


def test_files_that_are_no_projector_of_this_model_are_refused(models: dict[str, Seeing], tmp_path: Path) -> None:
    gemma, qwen = models["gemma3"], models["qwen2vl"]
    with pytest.raises(ModelNotFoundError):
        Projector(gemma.model, tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="is not a projector: its architecture is 'gemma3'"):
        Projector(gemma.model, gemma.model.path)
    with pytest.raises(ModelFileError, match="mismatch between text model"):
        Projector(gemma.model, qwen.path, warmup=False)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(qwen.path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError):
        Projector(qwen.model, cut)
    with pytest.raises(ModelLoadCancelled):
        Projector(qwen.model, qwen.path, progress=lambda _: False)
    with pytest.raises(ZeroDivisionError):
        Projector(qwen.model, qwen.path, progress=lambda _: 1 / 0)


@pytest.mark.parametrize(
    "options",
    [
        {"n_threads": 0}, {"image_min_tokens": 0}, {"image_max_tokens": -1}, {"batch_max_tokens": 0},
        {"image_min_tokens": 20, "image_max_tokens": 10}, {"flash_attn": "on"}, {"image_max_tokens": 1 << 40},
    ],
    ids=str,
)  # fmt: skip
def test_options_are_checked(models: dict[str, Seeing], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Projector(models["qwen2vl"].model, models["qwen2vl"].path, **options)  # type: ignore[arg-type]


def test_a_projector_belongs_to_its_model(models: dict[str, Seeing], tmp_path: Path) -> None:
    text = write_text_model(tmp_path / "text.gguf", "qwen2vl", QWEN2VL_SHAPE)
    model = Model(text)
    projector = Projector(model, models["qwen2vl"].path, n_threads=1, warmup=False)
    (chunk,) = (one for one in projector.tokenize(Image(pictures()["gray"])) if isinstance(one, MediaChunk))
    model.close()
    assert projector.closed
    assert not chunk.closed
    with pytest.raises(ClosedError):
        projector.encode(chunk)
    with pytest.raises(ClosedError):
        projector.tokenize(Image(pictures()["gray"]))
    projector.close()
    with pytest.raises(ClosedError):
        Projector(model, models["qwen2vl"].path)


def test_an_encoding_can_be_stopped(models: dict[str, Seeing]) -> None:
    projector = models["qwen2vl"].projector
    (chunk,) = (one for one in projector.tokenize(Image(scene(120, 120))) if isinstance(one, MediaChunk))
    whole = projector.encode(chunk)
    projector.abort()
    with pytest.raises(AbortedError, match="was aborted"):
        projector.encode(chunk)
    with pytest.raises(AbortedError, match="deadline"):
        projector.encode(chunk, deadline=time.monotonic() - 1)
    projector.abort()
    projector.withdraw_abort()
    assert np.array_equal(projector.encode(chunk, deadline=time.monotonic() + 100), whole)


def test_threads_tokenize_beside_each_other_and_take_turns_to_encode(models: dict[str, Seeing]) -> None:
    projector = models["qwen2vl"].projector
    images = [Image(scene(60 + 8 * i, 40, i)) for i in range(4)]
    expected = [embeddings(projector, image) for image in images]
    found = [np.zeros((0, 0), dtype=np.float32)] * 4
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(5):
                found[i] = embeddings(projector, images[i])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_embedding_batches_are_checked(models: dict[str, Seeing]) -> None:
    gemma, qwen = models["gemma3"].model, models["qwen2vl"].model
    rows = np.zeros((4, gemma.n_embd_inp), dtype=np.float32)
    for bad in (rows[:, :-1], rows.astype(np.float64), rows[0], rows[:0], [[0.0]]):
        with pytest.raises(BatchError, match="embd"):
            EmbeddingBatch(gemma, bad, 0)  # type: ignore[arg-type]
    for pos in (-1, np.zeros(3, dtype=np.int32), np.zeros((4, 4), dtype=np.int32), np.zeros(4), None):
        with pytest.raises(BatchError, match="pos"):
            EmbeddingBatch(gemma, rows, pos)  # type: ignore[arg-type]
    with pytest.raises(BatchError, match="seq_id"):
        EmbeddingBatch(gemma, rows, 0, -1)
    with context_of(qwen) as context:
        with pytest.raises(BatchError, match="another width"):
            context.decode(EmbeddingBatch(gemma, rows, 0))
        with pytest.raises(BatchError, match="seq_id 5"):
            context.decode(EmbeddingBatch(qwen, rows[:, :64].copy(), 0, 5))
    # With a sliding window, a batch is a micro-batch.
    with (
        Context(gemma, ContextOptions(n_ctx=64, n_batch=16, n_ubatch=2, n_threads=1)) as context,
        pytest.raises(BatchError, match="n_ubatch is 2"),
    ):
        EmbeddingBatch(gemma, rows, 0).decode(context, causal_attn=False)
    with Context(gemma, ContextOptions(n_ctx=64, n_batch=16, n_ubatch=4, n_threads=1)) as context:
        EmbeddingBatch(gemma, rows, 0, output_last=True).decode(context)
        assert np.isfinite(context.outputs.logits()).all()
        assert context.causal_attn
