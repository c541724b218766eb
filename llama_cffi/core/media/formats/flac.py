"""FLAC: metadata blocks, of which the first has the length, and frames, of which the last must be whole."""

from __future__ import annotations

from functools import cache

from llama_cffi.core.media.formats.checks import check_sound, cut, damaged
from llama_cffi.core.media.formats.sound import SoundFile

_STREAMINFO_SIZE = 34
_LARGEST_FRAME = 1 << 20
"""Bytes from the end in which the last frame is looked for: 65,535 samples of 8 channels take less as a rule."""


def read(data: bytes) -> SoundFile:
    """Return what a FLAC file says; raises :class:`MediaError`, also for one that does not say its length."""
    if len(data) < 8 + _STREAMINFO_SIZE:
        cut("FLAC")
    kind, size = data[4] & 0x7F, int.from_bytes(data[5:8], "big")
    if kind != 0 or size != _STREAMINFO_SIZE:
        damaged("FLAC", "its first block is not the stream's")
    facts = int.from_bytes(data[18:26], "big")
    rate, channels, total = facts >> 44, (facts >> 41 & 7) + 1, facts & (1 << 36) - 1
    if total == 0:
        damaged("FLAC", "it does not say how long it is; write it to a file that can be gone back in, or as WAV")
    check_sound(rate, channels, total)
    at, last = 4, False
    while not last:
        if at + 4 > len(data):
            cut("FLAC")
        last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    if at > len(data):
        cut("FLAC")
    if _end(data, at, int.from_bytes(data[10:12], "big")) < total:
        cut("FLAC")
    return SoundFile("flac", rate, channels, total, data)


def _end(data: bytes, first: int, block: int) -> int:
    """Samples up to the end of the last frame whose header is sound; 0 when there is none."""
    at = len(data)
    while True:
        at = data.rfind(b"\xff", max(first, len(data) - _LARGEST_FRAME), at)
        if at < 0:
            return 0
        if data[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (end := _frame_end(data[at : at + 16], block)):
            return end


def _frame_end(head: bytes, block: int) -> int:
    """The sample behind a frame that begins with these bytes; 0 for bytes that are no header."""
    if len(head) < 6:
        return 0
    size_code, rate_code = head[2] >> 4, head[2] & 15
    number, at = _number(head, 4)
    if number < 0 or size_code == 0 or rate_code == 15:
        return 0
    more = 1 if size_code == 6 else 2 if size_code == 7 else 0
    after = at + more + (1 if rate_code == 12 else 2 if rate_code in (13, 14) else 0)
    if after >= len(head) or _crc8(head[:after]) != head[after]:
        return 0
    if more:
        n = 1 + int.from_bytes(head[at : at + more], "big")
    else:
        n = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    # Frames of one size are numbered, others say their first sample.
    return number + n if head[1] & 1 else number * block + n


def _number(head: bytes, at: int) -> tuple[int, int]:
    """A number in the notation of UTF-8 and the place behind it; -1 for anything else."""
    first = head[at]
    if first < 0x80:
        return first, at + 1
    more = 7 - (first ^ 0xFF).bit_length()
    if not 1 <= more <= 6:
        return -1, at
    value = first & 0x3F >> more
    for byte in head[at + 1 : at + 1 + more]:
        if byte & 0xC0 != 0x80:
            return -1, at
        value = value << 6 | byte & 0x3F
    return value, at + 1 + more


@cache
def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 0x107) if value & 0x80 else value << 1
        table.append(value)
    return bytes(table)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _crc8_table()[value ^ byte]
    return value


__all__ = ["read"]
