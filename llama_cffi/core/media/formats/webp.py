"""WebP: the size in the first chunk of its container. libmtmd decodes it with an ffmpeg program."""

from __future__ import annotations

import struct

from llama_cffi.core.media.formats.checks import check_size, cut, damaged


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height; raises :class:`MediaError` for a cut or damaged file."""
    if len(data) < 30:
        cut("WebP")
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        cut("WebP")
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        if data[20] != 0x2F:
            damaged("WebP", "its lossless data has no signature")
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            damaged("WebP", "its data has no signature")
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        damaged("WebP", f"an unknown chunk {kind!r}")
    return check_size(width, height)


__all__ = ["read_size"]
