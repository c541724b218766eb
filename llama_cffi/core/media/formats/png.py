"""PNG: chunks, of which the compressed data must be as long as the header says."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256

from llama_cffi.core.media.formats.checks import check_size, cut, damaged

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced image: first column and row, and steps between columns and rows."""
_STEP = 1 << 20
_MARGIN = 1 << 16
"""Bytes behind the last row that are ignored."""
_REMEMBERED = 1024
_intact: dict[bytes, tuple[int, int]] = {}
"""The sizes of files that were right, by hash: a chat sends its images again with each message."""


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height; raises :class:`MediaError` for a cut or damaged file, and one that decompresses to more
    than its header says."""
    digest = sha256(data).digest()
    size = _intact.get(digest)
    if size is None:
        size = _read(data)
        if len(_intact) >= _REMEMBERED:
            _intact.clear()
        _intact[digest] = size
    return size


def _read(data: bytes) -> tuple[int, int]:
    chunks = _chunks(data)
    kind, header = next(chunks, (b"", b""))
    if kind != b"IHDR" or len(header) != 13:
        damaged("PNG", "it does not begin with a header")
    width, height, depth, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    check_size(width, height)
    if color not in _CHANNELS or depth not in _DEPTHS[color] or compression or filtering or interlace > 1:
        damaged("PNG", f"color type {color} with {depth} bits, compression {compression}, interlacing {interlace}")
    body, ended = [], False
    for kind, content in chunks:
        if kind == b"IDAT":
            body.append(content)
        elif kind == b"IEND":
            ended = True
            break
    if not ended:
        cut("PNG")
    _check_length(body, _raw_size(width, height, depth * _CHANNELS[color], bool(interlace)))
    return width, height


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    at = 8
    view = memoryview(data)
    while at < len(data):
        if at + 12 > len(data):
            cut("PNG")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            cut("PNG")
        yield kind, view[at + 8 : at + 8 + length]
        at += 12 + length


def _raw_size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of all rows, each with the byte of its filter."""

    def rows(width: int, height: int) -> int:
        return height * (1 + (width * bits + 7) // 8) if width > 0 else 0

    if not interlaced:
        return rows(width, height)
    return sum(rows(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES if height > y)


def _check_length(body: list[memoryview], expected: int) -> None:
    """Decompress, and keep nothing: more than expected would be a decompression bomb."""
    found, stream = 0, zlib.decompressobj()
    for part in body:
        rest: bytes | memoryview = part
        while len(rest) and not stream.eof:
            try:
                found += len(stream.decompress(rest, _STEP))
            except zlib.error as error:
                damaged("PNG", str(error).partition(": ")[2] or "its data cannot be decompressed")
            if found > expected + _MARGIN:
                damaged("PNG", f"its data is longer than the {expected} bytes of its size")
            rest = stream.unconsumed_tail
    if found < expected:
        if not stream.eof:
            cut("PNG")
        damaged("PNG", f"its data is {found} bytes, its size needs {expected}")


__all__ = ["read_size"]
