"""An image file: its format and its size in pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from llama_cffi.core.media.formats import bmp, gif, jpeg, png, pnm, webp
from llama_cffi.errors import MediaError

ImageFormat = Literal["png", "jpeg", "gif", "bmp", "pnm", "webp"]


def read_size(data: bytes) -> tuple[ImageFormat, int, int]:
    """Return the format, width and height of an image file.

    Raises :class:`MediaError` for bytes of no known format, for a file that is cut or whose structure is damaged, and
    for an image of too many pixels. The compressed data is not decoded, except that of a PNG: it is compared with the
    size that the header says.
    """
    known: tuple[tuple[ImageFormat, bool, Callable[[bytes], tuple[int, int]]], ...] = (
        ("png", data.startswith(b"\x89PNG\r\n\x1a\n"), png.read_size),
        ("jpeg", data.startswith(b"\xff\xd8\xff"), jpeg.read_size),
        ("gif", data.startswith((b"GIF87a", b"GIF89a")), gif.read_size),
        ("bmp", data.startswith(b"BM"), bmp.read_size),
        ("pnm", data[:2] in (b"P5", b"P6"), pnm.read_size),
        ("webp", data[:4] == b"RIFF" and data[8:12] == b"WEBP", webp.read_size),
    )
    for name, fits, read in known:
        if fits:
            width, height = read(data)
            return name, width, height
    raise MediaError(f"not an image: the data begins with {data[:8]!r}; allowed are PNG, JPEG, GIF, BMP, PNM and WebP")


__all__ = ["ImageFormat", "read_size"]
