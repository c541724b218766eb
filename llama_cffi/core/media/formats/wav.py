"""WAV: one chunk with the format, and one with the samples."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.media.formats.checks import check_sound, cut, damaged
from llama_cffi.core.media.formats.sound import SoundFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), _ALAW: (8,), _MULAW: (8,)}
_UNKNOWN = (0xFFFFFFFF,)
"""The length that a writer leaves when it cannot go back."""


def read(data: bytes) -> SoundFile:
    """Return what a WAV file says; raises :class:`MediaError`."""
    form: bytes | None = None
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if kind == b"data":
            if form is None:
                damaged("WAV", "its samples come before their format")
            if size in _UNKNOWN:
                size = len(data) - at
            if at + size > len(data):
                cut("WAV")
            return _sound(form, data[at : at + size])
        if at + size > len(data):
            cut("WAV")
        if kind == b"fmt ":
            form = data[at : at + size]
        at += size + size % 2
    cut("WAV")


def _sound(form: bytes, samples: bytes) -> SoundFile:
    if len(form) < 16:
        damaged("WAV", f"its format has {len(form)} bytes")
    tag, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", form)
    if tag == _EXTENSIBLE:
        if len(form) < 40:
            damaged("WAV", f"its format has {len(form)} bytes")
        (tag,) = struct.unpack_from("<H", form, 24)
    if tag not in _BITS or bits not in _BITS[tag]:
        damaged("WAV", f"encoding {tag} with {bits} bits is not decoded; PCM, float, A-law and mu-law are")
    if frame != channels * bits // 8:
        damaged("WAV", f"{frame} bytes for {channels} samples of {bits} bits")
    check_sound(rate, channels, len(samples) // max(frame, 1))
    samples = samples[: len(samples) // frame * frame]
    return SoundFile("wav", rate, channels, len(samples) // frame, wav_file(tag, channels, rate, bits, samples))


def wav_file(tag: int, channels: int, rate: int, bits: int, samples: bytes) -> bytes:
    """Return a WAV file of these samples and nothing else."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, min(rate * frame, 0xFFFFFFFF), frame, bits)
    pad = b"\0" * (len(samples) % 2)
    size = 4 + 8 + len(form) + 8 + len(samples) + len(pad)
    return b"".join(
        (
            struct.pack("<4sI4s4sI", b"RIFF", size, b"WAVE", b"fmt ", len(form)),
            form,
            struct.pack("<4sI", b"data", len(samples)),
            samples,
            pad,
        )
    )


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Return float samples as 16-bit integers, as libmtmd writes them: cut to -1 to 1, and truncated."""
    integers: NDArray[np.int16] = (np.clip(samples, -1, 1) * np.float32(32767)).astype("<i2")
    return integers.tobytes()


def pcm16_file(rate: int, samples: NDArray[np.float32]) -> bytes:
    """Return a WAV file of one channel of 16-bit integers."""
    return wav_file(_PCM, 1, rate, 16, pcm16(samples))


def pcm16_header(rate: int) -> bytes:
    """Return how a WAV file of one channel of 16-bit integers begins that is written before its length is known."""
    whole = wav_file(_PCM, 1, rate, 16, b"")
    unknown = struct.pack("<I", _UNKNOWN[0])
    return whole[:4] + unknown + whole[8:-4] + unknown


def float_file(rate: int, samples: bytes) -> bytes:
    """Return a WAV file of one channel of 32-bit floats."""
    return wav_file(_FLOAT, 1, rate, 32, samples)


__all__ = ["float_file", "pcm16", "pcm16_file", "pcm16_header", "read", "wav_file"]
