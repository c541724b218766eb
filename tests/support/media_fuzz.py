"""Damaged image and sound files, given to libmtmd: each is an exception of the package or an answer.

Run with ``python -m``: a folder with the models of :func:`write_models`, the first seed, and how many. One JSON object
is printed: how many answers, and how many exceptions by type; and the most memory that was in use.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path

from tests.support.media_models import (
    HEARING_SHAPE,
    QWEN2VL_SHAPE,
    write_audio_projector,
    write_text_model,
    write_vision_projector,
)
from tests.support.pictures import more_pictures, pictures
from tests.support.sounds import flac, mp3, tone, wav

MEMORY = 2 << 30
"""Bytes that a child may have: the limits of the package allow less for what these files can be."""
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def write_models(folder: Path) -> None:
    """Write a model that sees and one that hears, with their projectors."""
    write_text_model(folder / "seeing.gguf", "qwen2vl", QWEN2VL_SHAPE)
    write_vision_projector(folder / "mmproj-seeing.gguf")
    write_text_model(folder / "hearing.gguf", "llama", HEARING_SHAPE)
    write_audio_projector(folder / "mmproj-hearing.gguf")


def originals() -> dict[str, bytes]:
    """Sound files by name, and pictures."""
    sound = tone(0.1, 8000)
    images = {**pictures(), **more_pictures()}
    del images["long"]
    return {
        **images,
        "wav": wav(sound, 8000), "wav stereo": wav(sound, 8000, 2), "wav float": wav(sound, 8000, bits=32),
        "flac": flac(sound, 8000), "mp3": mp3(6), "mp3 tagged": mp3(6, tag=b"ID3\4\0\0\0\0\0\4abcd", announced=6),
    }  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with some damage: more at the beginning, where the headers are."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 30))):
        head = min(len(found), 128)
        at = rng.randrange(head) if rng.random() < 0.6 and head else rng.randrange(max(len(found), 1))
        kind = rng.randrange(7)
        if kind == 0:
            found[at : at + 1] = bytes((rng.randrange(256),))
        elif kind == 1:
            found[at : at + 1] = bytes((found[at] ^ 1 << rng.randrange(8),)) if at < len(found) else b""
        elif kind == 2:
            size = rng.choice((2, 4))
            number = rng.choice(_NUMBERS) & (1 << 8 * size) - 1
            found[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 3:
            del found[at : at + rng.choice((1, 2, 4, 16, 64))]
        elif kind == 4:
            found[at:at] = bytes(found[at : at + rng.choice((1, 4, 16, 256))])
        elif kind == 5:
            found[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
        elif rng.random() < 0.3:
            del found[at:]
    return bytes(found)


def main(folder: str, first: int, count: int) -> None:
    from llama_cffi import Audio, Image, LlamaCffiError, Model, Projector

    faulthandler.enable()
    models = {name: Model(Path(folder, f"{name}.gguf")) for name in ("seeing", "hearing")}
    projectors = {
        name: Projector(model, Path(folder, f"mmproj-{name}.gguf"), n_threads=1, warmup=False)
        for name, model in models.items()
    }
    resource.setrlimit(resource.RLIMIT_AS, (_mapped() + MEMORY, resource.RLIM_INFINITY))
    files = originals()
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        data = damaged(files[rng.choice(sorted(files))], rng)
        print(f"seed {seed}", file=sys.stderr, flush=True)
        for kind, name in ((Image, "seeing"), (Audio, "hearing")):
            try:
                pieces = projectors[name].tokenize(kind(data))
            except LlamaCffiError as error:
                counts[f"{kind.__name__} {type(error).__name__}"] += 1
            else:
                assert pieces
                counts[f"{kind.__name__} answers"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"counts": dict(counts), "peak_mib": peak >> 10}))


def _mapped() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
