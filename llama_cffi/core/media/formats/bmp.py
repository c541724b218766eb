"""BMP: a header, and rows of pixels without compression."""

from __future__ import annotations

import struct

from llama_cffi.core.media.formats.checks import check_size, cut, damaged

_PLAIN, _MASKS = 0, 3
_BITS = (1, 4, 8, 16, 24, 32)


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height; raises :class:`MediaError` for a cut, damaged or compressed file."""
    if len(data) < 26:
        cut("BMP")
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = _PLAIN
    elif header in (40, 56, 108, 124):
        if len(data) < 34:
            cut("BMP")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        damaged("BMP", f"a header of {header} bytes")
    check_size(width, abs(height))
    if compression not in (_PLAIN, _MASKS):
        damaged("BMP", f"compression {compression} is not decoded")
    if bits not in _BITS:
        damaged("BMP", f"{bits} bits for a pixel")
    if offset < 14 + header:
        damaged("BMP", f"its pixels begin at byte {offset}, inside the header")
    if offset + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        cut("BMP")
    return width, abs(height)


__all__ = ["read_size"]
