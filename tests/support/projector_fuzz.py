"""Projectors with other tensors and metadata than libmtmd expects: each is an exception of the package or works.

Run with ``python -m``: a folder with the models of :func:`write_kinds`, the first seed, how many, and the kinds. One
JSON object is printed: how many answers, and how many exceptions by type.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from tests.support.gguf_surgery import change as change_bytes
from tests.support.gguf_surgery import parse
from tests.support.media_fuzz import write_models
from tests.support.speech_models import NAMES, write_speaking_model

if TYPE_CHECKING:
    from llama_cffi import Audio, Projector, SpeechGenerator

KINDS = ("seeing", "hearing", *NAMES)
_TYPES = (
    *("qwen3tts_spkenc", "qwen3tts_gen", "pockettts_spkenc", "pockettts_gen"),
    *("mlp", "gemma3", "qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "idefics3", "pixtral", "internvl"),
    *(
        "llama4",
        "ultravox",
        "qwen2a",
        "voxtral",
        "lfm2",
        "kimivl",
        "glma",
        "cogvlm",
        "janus_pro",
        "resampler",
        "adapter",
    ),
)
FIRST_CODE = {"qwen3tts": 400}
"""The token of the first code of a sound, after those of texts."""
_NUMBERS = (0, 1, 2, 3, 7, 16, 31, 32, 64, 100, 1000, 4096, 1 << 16, (1 << 31) - 1)


def write_kinds(folder: Path) -> None:
    """Write a model and a projector of each kind."""
    write_models(folder)
    for name in NAMES:
        write_speaking_model(folder, name)


class ProjectorFile:
    """The metadata and tensors of a projector, to be changed and written."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.fields: dict[str, Any] = {
            name: field.contents() for name, field in reader.fields.items()
            if not name.startswith("GGUF.") and name != "general.architecture"
        }  # fmt: skip
        self.tensors: list[tuple[str, Any]] = [(one.name, np.array(one.data)) for one in reader.tensors]

    def write(self, path: Path) -> None:
        writer = gguf.GGUFWriter(path, "clip")
        for name, value in self.fields.items():
            _add(writer, name, value)
        for name, array in self.tensors:
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add(writer: Any, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def change(file: ProjectorFile, rng: random.Random) -> None:
    """Change one thing."""
    tensors, kind = file.tensors, rng.randrange(12)
    i = rng.randrange(len(tensors))
    name, array = tensors[i]
    if kind == 0:
        del tensors[i]
    elif kind == 1:
        tensors[i] = (f"{name}.x", array)
    elif kind == 2:
        k = rng.randrange(len(tensors))
        tensors[i], tensors[k] = (tensors[k][0], array), (name, tensors[k][1])
    elif kind == 3:
        tensors[i] = (name, np.ascontiguousarray(array.T))
    elif kind == 4:
        axis = rng.randrange(array.ndim)
        n = max(1, array.shape[axis] + rng.choice((-1, 1, -array.shape[axis] // 2, array.shape[axis])))
        tensors[i] = (name, np.ascontiguousarray(np.resize(array, (*array.shape[:axis], n, *array.shape[axis + 1 :]))))
    elif kind == 5:
        tensors[i] = (name, array.reshape(-1) if rng.random() < 0.5 else array[None] if array.ndim < 4 else array[0])
    elif kind == 6:
        tensors[i] = (name, array.astype(rng.choice((np.float16, np.float32, np.int32, np.int8))))
    elif kind == 8:
        tensors[i] = (name, np.full_like(array, rng.choice((0, float("nan"), float("inf"), 6e4))))
    elif kind == 7:
        tensors.append((name.replace("0", str(rng.randrange(4))) + rng.choice(("", ".1")), array))
    else:
        names = sorted(file.fields)
        key = rng.choice(names)
        value = file.fields[key]
        if rng.random() < 0.2:
            del file.fields[key]
        elif "projector_type" in key:
            file.fields[key] = rng.choice(_TYPES)
        elif isinstance(value, bool):
            file.fields[key] = not value
        elif isinstance(value, int):
            file.fields[key] = rng.choice((*_NUMBERS, value + 1, value * 2, value // 2))
        elif isinstance(value, float):
            file.fields[key] = rng.choice((0.0, -1.0, 1e30, float("nan")))


def damage(path: Path, rng: random.Random) -> None:
    """Cut a file, or change its bytes where metadata and names are."""
    data = path.read_bytes()
    kind = rng.randrange(3)
    if kind == 0:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 1:
        path.write_bytes(data[: len(data) - rng.randrange(1, 4096)])
    else:
        path.write_bytes(change_bytes(parse(data), rng.choice(("metadata", "tensors")), rng).bytes())


def main(folder: str, first: int, count: int, kinds: Sequence[str]) -> None:
    from llama_cffi import (
        Audio,
        Context,
        ContextOptions,
        Image,
        LlamaCffiError,
        MediaChunk,
        Model,
        Projector,
        SpeechGenerator,
    )
    from tests.support.sounds import tone

    faulthandler.enable()
    models = {kind: Model(Path(folder, f"{kind}.gguf")) for kind in kinds}
    media: dict[str, Image | Audio] = {
        "seeing": Image(np.arange(32 * 24 * 3, dtype=np.uint8).reshape(24, 32, 3)),
        "hearing": Audio(tone(0.5, 16000), sample_rate=16000),
    }
    voice = Audio(tone(0.5, 24000), sample_rate=24000)
    options = ContextOptions(n_ctx=256, n_ubatch=64, n_threads=1, embeddings=True, pooling="none")

    def use(projector: Projector, kind: str) -> None:
        if kind in media:
            for piece in projector.tokenize(media[kind], projector.place(1, 5)):
                if isinstance(piece, MediaChunk):
                    projector.encode(piece)
            return
        with Context(models[kind], options) as context:
            speak(SpeechGenerator(context, projector), voice if projector.voices else None)

    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        kind = rng.choice(kinds)
        file = ProjectorFile(Path(folder, f"mmproj-{kind}.gguf"))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
            change(file, rng)
        path = Path(folder, "changed.gguf")
        path.unlink(missing_ok=True)
        print(f"seed {seed}", file=sys.stderr, flush=True)
        names = [name for name, _ in file.tensors]
        if len(set(names)) < len(names):
            counts["two of a name"] += 1
            continue
        file.write(path)
        if rng.random() < 0.2:
            damage(path, rng)
        try:
            projector = Projector(models[kind], path, n_threads=1)
        except LlamaCffiError as error:
            crashed = "crashes" in error.message
            counts[f"{type(error).__name__}{' (would have crashed)' if crashed else ''}"] += 1
            continue
        try:
            use(projector, kind)
            counts["answers"] += 1
        except LlamaCffiError as error:
            counts[f"used: {type(error).__name__}"] += 1
        projector.close()
    print(json.dumps({"counts": dict(counts)}))


def speak(generator: SpeechGenerator, voice: Audio | None) -> None:
    """Speak a few frames of a text, and have the sound of them."""
    generator.start("Hello there", voice=voice, seed=1)
    while generator.read(64):
        pass
    for token in range(9):
        if not generator.step(FIRST_CODE.get(generator.projector.speech or "", 0) + token):
            break
    generator.samples()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
