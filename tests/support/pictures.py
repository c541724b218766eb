"""Pictures of odd kinds, as files that Pillow writes."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image as Pillow


def scene(width: int, height: int, seed: int = 0) -> Any:
    """A Pillow image of gradients and blocks: neighbors are alike, as in photographs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x * rng.uniform(0.01, 0.2) + y * rng.uniform(0.01, 0.2) + channel) for channel in range(3)]
    pixels = np.stack(waves, axis=2) * 100 + 128 + rng.normal(0, 8, (height, width, 3))
    return Pillow.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")


def _saved(picture: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photograph(width: int, height: int, seed: int = 0) -> bytes:
    """A :func:`scene` as a file."""
    return _saved(scene(width, height, seed), "PNG")


@cache
def pictures() -> dict[str, bytes]:
    """Ten files by name."""
    photo = scene(97, 61)
    rotated = Pillow.Exif()
    rotated[0x0112] = 6  # a quarter turn
    alpha = photo.copy()
    alpha.putalpha(scene(97, 61, 1).convert("L"))
    deep = (np.asarray(photo.convert("L"), dtype=np.uint32) * 257).astype(np.uint16)
    return {
        "one pixel": _saved(scene(1, 1), "PNG"),
        "long": _saved(scene(3000, 10), "PNG"),
        "gray": _saved(photo.convert("L"), "PNG"),
        "alpha": _saved(alpha, "PNG"),
        "palette": _saved(photo.quantize(32), "PNG"),
        "rotated": _saved(photo, "JPEG", quality=90, exif=rotated),
        "cmyk": _saved(photo.convert("CMYK"), "JPEG", quality=90),
        "animated": _saved(
            photo.convert("P"), "GIF", save_all=True, append_images=[scene(97, 61, 2).convert("P")], duration=100
        ),
        "progressive": _saved(photo, "JPEG", quality=75, progressive=True),
        "16 bits": _saved(Pillow.fromarray(deep), "PNG"),
    }


@cache
def more_pictures() -> dict[str, bytes]:
    """Other kinds of files."""
    photo = scene(40, 30, 5)
    return {
        "bmp": _saved(photo, "BMP"),
        "bmp palette": _saved(photo.quantize(16), "BMP"),
        "ppm": _saved(photo, "PPM"),
        "pgm": _saved(photo.convert("L"), "PPM"),
        "gif": _saved(photo, "GIF"),
        "two colors": _saved(photo.convert("1"), "PNG"),
        "gray alpha": _saved(photo.convert("LA"), "PNG"),
    }


def png(width: int, height: int, body: bytes, *, depth: int = 8, color: int = 2, interlace: int = 0) -> bytes:
    """A PNG file of these sizes, whatever its compressed rows are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
