"""A sound file: its format, its length, and the bytes to decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_cffi.core.media.limits import (
    MAX_CHANNELS,
    MAX_SAMPLE_RATE,
    MAX_SECONDS,
    MIN_SAMPLE_RATE,
)
from llama_cffi.errors import MediaError

SoundFormat = Literal["wav", "mp3", "flac"]


@dataclass(frozen=True, slots=True)
class SoundFile:
    """What a sound file says of itself.

    ``body`` are the bytes to decode, which say nothing else: libmtmd makes room for the samples that a header
    announces, before it looks for them.
    """

    format: SoundFormat
    sample_rate: int
    n_channels: int
    n_samples: int
    """Of one channel."""
    body: bytes

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.n_samples / self.sample_rate


def read_sound(data: bytes) -> SoundFile:
    """Return what a sound file says.

    Raises :class:`MediaError` for bytes of no known format, for a file that is cut or whose structure is damaged, and
    for a sound that is empty or too long.
    """
    from llama_cffi.core.media.formats import flac, mp3, wav

    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return wav.read(data)
    if data[:4] == b"fLaC":
        return flac.read(data)
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return mp3.read(data)
    raise MediaError(f"not a sound: the data begins with {data[:8]!r}; allowed are WAV, MP3 and FLAC")


def check_sound(sample_rate: int, n_channels: int, n_samples: int) -> None:
    """Raise :class:`MediaError` for a sound that is empty, too long, or of a rate or channels that are not allowed."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise MediaError(
            f"the sound has {sample_rate} samples per second; allowed are {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise MediaError(f"the sound has {n_channels} channels; allowed are 1 to {MAX_CHANNELS}")
    if n_samples < 1:
        raise MediaError("the sound is empty")
    if n_samples > MAX_SECONDS * sample_rate:
        raise MediaError(
            f"the sound is too long: {n_samples / sample_rate:.0f} seconds; allowed are {MAX_SECONDS:.0f}. Split it"
        )


__all__ = ["SoundFile", "SoundFormat", "check_sound", "read_sound"]
