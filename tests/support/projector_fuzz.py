"""Projectors with other tensors and metadata than libmtmd expects: each is an exception of the package or works.

Run with ``python -m``: a folder with the models of :func:`~tests.support.media_fuzz.write_models`, the first seed, and
how many. One JSON object is printed: how many answers, and how many exceptions by type.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np

KINDS = ("seeing", "hearing")
_TYPES = (
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
_NUMBERS = (0, 1, 2, 3, 7, 16, 31, 32, 64, 100, 1000, 4096, 1 << 16, (1 << 31) - 1)


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
    tensors, kind = file.tensors, rng.randrange(11)
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


def main(folder: str, first: int, count: int) -> None:
    from llama_cffi import Audio, Image, LlamaCffiError, MediaChunk, Model, Projector
    from tests.support.sounds import tone

    faulthandler.enable()
    models = {kind: Model(Path(folder, f"{kind}.gguf")) for kind in KINDS}
    media: dict[str, Image | Audio] = {
        "seeing": Image(np.arange(32 * 24 * 3, dtype=np.uint8).reshape(24, 32, 3)),
        "hearing": Audio(tone(0.5, 16000), sample_rate=16000),
    }
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        kind = rng.choice(KINDS)
        file = ProjectorFile(Path(folder, f"mmproj-{kind}.gguf"))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            change(file, rng)
        path = Path(folder, "changed.gguf")
        path.unlink(missing_ok=True)
        print(f"seed {seed}", file=sys.stderr, flush=True)
        names = [name for name, _ in file.tensors]
        if len(set(names)) < len(names):
            continue
        file.write(path)
        try:
            projector = Projector(models[kind], path, n_threads=1)
        except LlamaCffiError as error:
            crashed = "crashes" in error.message
            counts[f"{type(error).__name__}{' (would have crashed)' if crashed else ''}"] += 1
            continue
        try:
            for piece in projector.tokenize(media[kind], projector.place(1, 5)):
                if isinstance(piece, MediaChunk):
                    projector.encode(piece)
            counts["answers"] += 1
        except LlamaCffiError as error:
            counts[f"used: {type(error).__name__}"] += 1
        projector.close()
    print(json.dumps({"counts": dict(counts)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
