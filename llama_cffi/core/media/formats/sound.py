"""What a sound file says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


__all__ = ["SoundFile", "SoundFormat"]
