"""How large a medium may be: what is larger is refused before it is decoded."""

from __future__ import annotations

MAX_PIXELS = 1 << 26
"""67 million. While it is decoded an image takes 6 to 16 bytes a pixel."""
MAX_SIDE = 46000
"""libmtmd fails an assertion above it."""
MAX_IMAGE_BYTES = 128 << 20
"""Of an image file."""
MAX_AUDIO_BYTES = 512 << 20
"""Of a sound file."""
MAX_SECONDS = 3600.0
"""Of a sound."""
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 384_000
"""Samples per second of a sound."""
MAX_CHANNELS = 32
"""Of a sound file; they are mixed to one."""

__all__ = [
    "MAX_AUDIO_BYTES",
    "MAX_CHANNELS",
    "MAX_IMAGE_BYTES",
    "MAX_PIXELS",
    "MAX_SAMPLE_RATE",
    "MAX_SECONDS",
    "MAX_SIDE",
    "MIN_SAMPLE_RATE",
]
