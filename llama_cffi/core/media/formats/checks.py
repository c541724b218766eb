"""The checks that readers of formats share, and their errors."""

from __future__ import annotations

from typing import NoReturn

from llama_cffi.core.media.limits import (
    MAX_CHANNELS,
    MAX_PIXELS,
    MAX_SAMPLE_RATE,
    MAX_SECONDS,
    MAX_SIDE,
    MIN_SAMPLE_RATE,
)
from llama_cffi.errors import MediaError


def check_size(width: int, height: int) -> tuple[int, int]:
    """Return a size in pixels; raise :class:`MediaError` for one of nothing, or of too many."""
    if width < 1 or height < 1:
        raise MediaError(f"the image has no pixels: it is {width} by {height}")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise MediaError(
            f"the image is too large: {width} by {height} pixels; allowed are {MAX_PIXELS:,} pixels, and "
            f"{MAX_SIDE:,} on a side. Scale it down"
        )
    return width, height


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


def cut(format_name: str) -> NoReturn:
    """Raise the error for a file that ends too early."""
    raise MediaError(f"the {format_name} file is cut: it ends before its data does")


def damaged(format_name: str, what: str) -> NoReturn:
    """Raise the error for a file whose structure is wrong."""
    raise MediaError(f"the {format_name} file is damaged: {what}")


__all__ = ["check_size", "check_sound", "cut", "damaged"]
