"""JPEG: marker segments up to the first scan, and the mark of the end."""

from __future__ import annotations

import struct

from llama_cffi.core.media.formats.checks import check_size, cut, damaged

_ALONE = (*range(0xD0, 0xD9), 0x01)
_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN, _END = 0xDA, 0xD9


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height, as they are stored: an orientation in EXIF turns nothing.

    Raises :class:`MediaError` for a cut or damaged file, and for the kinds that libmtmd does not decode: lossless,
    hierarchical and arithmetic ones.
    """
    size: tuple[int, int] | None = None
    at = 2
    while True:
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at >= len(data):
            cut("JPEG")
        if data[at - 1] != 0xFF:
            damaged("JPEG", f"there is no marker at byte {at}")
        marker = data[at]
        at += 1
        if marker in _ALONE:
            continue
        if at + 2 > len(data):
            cut("JPEG")
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            damaged("JPEG", f"a segment of {length} bytes at byte {at}")
        if at + length > len(data) or marker == _END:
            cut("JPEG")
        if marker in _FRAMES:
            if length < 8:
                damaged("JPEG", "its header is too short")
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = check_size(width, height)
        elif marker in _OTHER_FRAMES:
            damaged("JPEG", f"it is of a kind that is not decoded (marker {marker:#x})")
        elif marker == _SCAN:
            break
        at += length
    if size is None:
        damaged("JPEG", "it has no size before its data")
    # In the data itself this byte never follows 0xFF.
    if data.find(bytes((0xFF, _END)), at + length) < 0:
        cut("JPEG")
    return size


__all__ = ["read_size"]
