"""Sounds as files: WAV, FLAC without compression, and MP3 of silence."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray


def tone(seconds: float = 0.5, rate: int = 16000, frequency: float = 440.0) -> NDArray[np.float32]:
    """A sine tone, with a little noise."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(3).normal(0, 0.01, time.size)
    return (0.5 * np.sin(2 * np.pi * frequency * time) + noise).astype(np.float32)


def wav(
    samples: NDArray[np.float32], rate: int = 16000, channels: int = 1, *, bits: int = 16, extra: bytes = b""
) -> bytes:
    """A WAV file of one channel's samples, the same in each channel; ``extra`` are chunks before the data."""
    if bits == 16:
        body = (samples * 32767).astype("<i2")
    elif bits == 8:
        body = (samples * 127 + 128).astype("u1")
    else:
        body = samples.astype("<f4")
    data = np.repeat(body[:, None], channels, axis=1).tobytes()
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 3 if bits == 32 else 1, channels, rate, rate * frame, frame, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + extra + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def flac(samples: NDArray[np.float32], rate: int = 16000, *, block: int = 1024) -> bytes:
    """A FLAC file of 16 bits and one channel, whose frames hold the samples as they are."""
    body = (samples * 32767).astype(">i2")
    facts = rate << 44 | 0 << 41 | 15 << 36 | len(body)
    info = struct.pack(">HH", block, block) + b"\0" * 6 + facts.to_bytes(8, "big") + b"\0" * 16
    frames = []
    for number, start in enumerate(range(0, len(body), block)):
        part = body[start : start + block]
        head = b"\xff\xf8" + bytes((0x70 | 0, 0x08)) + _utf8(number) + struct.pack(">H", len(part) - 1)
        head += bytes((_crc(head, 8, 0x07),))
        frame = head + b"\x02" + part.tobytes()
        frames.append(frame + _crc(frame, 16, 0x8005).to_bytes(2, "big"))
    return b"fLaC" + bytes((0x80,)) + len(info).to_bytes(3, "big") + info + b"".join(frames)


def mp3(n_frames: int = 40, *, tag: bytes = b"", announced: int | None = None) -> bytes:
    """An MP3 file of silence at 44,100 Hz, 26 ms for each frame; ``announced`` is what its first frame says."""
    silence = b"\xff\xfb\x90\xc0" + b"\0" * 413
    first = bytearray()
    if announced is not None:
        first += silence
        first[4 + 17 : 4 + 17 + 12] = b"Xing" + struct.pack(">II", 1, announced)
    return tag + bytes(first) + silence * n_frames


def _utf8(number: int) -> bytes:
    return chr(number).encode()


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top = 0, 1 << bits - 1
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & ((1 << bits) - 1)
    return value
