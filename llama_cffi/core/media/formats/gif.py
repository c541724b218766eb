"""GIF: blocks up to the end; the first picture is the image."""

from __future__ import annotations

import struct

from llama_cffi.core.media.formats.checks import check_size, cut, damaged

_EXTENSION, _PICTURE, _TRAILER = 0x21, 0x2C, 0x3B


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the canvas; raises :class:`MediaError` for a cut or damaged file."""
    if len(data) < 13:
        cut("GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check_size(width, height)
    at = 13 + _colors(flags)
    pictures = 0
    while at < len(data):
        kind = data[at]
        if kind == _TRAILER:
            break
        if kind == _PICTURE:
            if at + 10 > len(data):
                cut("GIF")
            x, y, w, h, flags = struct.unpack_from("<HHHHB", data, at + 1)
            if not pictures and (x + w > width or y + h > height):
                damaged("GIF", f"its picture of {w} by {h} at {x}, {y} is outside of {width} by {height}")
            pictures += 1
            at = _skip(data, at + 11 + _colors(flags))
        elif kind == _EXTENSION:
            at = _skip(data, at + 2)
        else:
            damaged("GIF", f"an unknown block {kind:#x} at byte {at}")
    else:
        # Some writers leave the last byte out; what ends within a block is cut.
        if at > len(data) or not pictures:
            cut("GIF")
    if not pictures:
        damaged("GIF", "there is no picture in it")
    return width, height


def _colors(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip(data: bytes, at: int) -> int:
    """The place behind the blocks of data that begin here."""
    while True:
        if at >= len(data):
            cut("GIF")
        size = data[at]
        at += 1 + size
        if not size:
            return at


__all__ = ["read_size"]
