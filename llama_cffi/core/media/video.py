"""A video, as a value: pictures and their times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._util.scalars import as_float
from llama_cffi._util.shown import shown
from llama_cffi.core.media.image import Image
from llama_cffi.core.media.limits import MAX_PIXELS
from llama_cffi.core.media.value import DIGEST_SIZE, MediaValue
from llama_cffi.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMESTAMP_SECONDS = 5.0
"""How far apart the times are that a prompt has between the frames."""
_START = "Video:"


class Video(MediaValue):
    """Pictures of one size with their times, for a model that sees: a value, as :class:`Image` is.

    ``frames`` are Images, or what an Image can be made of; ``times`` are seconds from the beginning, which never go
    back. As libmtmd does with the frames that an ``ffmpeg`` program gives it, a prompt has the word "Video:" before the
    frames and every five seconds a time between them; some models see two frames as one picture.

    Raises :class:`MediaError` for no frames, frames of different sizes, too many pixels in all, and times that do not
    fit.
    """

    __slots__ = ("frames", "times")

    frames: tuple[Image, ...]
    """The pictures."""
    times: tuple[float, ...]
    """The second of each picture."""
    digest: bytes
    """16 bytes: a hash of pictures and times."""

    def __init__(self, frames: Sequence[Image | NDArray[np.uint8] | Any], times: Iterable[float]) -> None:
        if isinstance(frames, (str, bytes)) or not isinstance(frames, (Sequence, np.ndarray)):
            raise TypeError(f"frames must be a list of Images, got {shown(frames)}")
        if not len(frames):
            raise MediaError("a Video needs at least one frame")
        images = tuple(one if isinstance(one, Image) else Image(one) for one in frames)
        sizes = {(one.width, one.height) for one in images}
        if len(sizes) > 1:
            raise MediaError(f"the frames of a Video must have one size, got {sorted(sizes)}")
        ((width, height),) = sizes
        if width * height * len(images) > MAX_PIXELS:
            raise MediaError(
                f"the Video is too large: {len(images)} frames of {width} by {height} pixels; allowed are "
                f"{MAX_PIXELS:,} pixels in all. Take fewer frames, or scale them down"
            )
        seconds = tuple(_second(one) for one in times)
        if len(seconds) != len(images) or any(later < one for one, later in pairwise(seconds)):
            raise MediaError(f"times must be {len(images)} numbers that never go back, got {shown(seconds)}")
        found = blake2b(b"video", digest_size=DIGEST_SIZE)
        for image, second in zip(images, seconds, strict=True):
            found.update(image.digest + second.hex().encode())
        self._hold(frames=images, times=seconds, digest=found.digest())

    def parts(self) -> Iterator[Image | str]:
        """Return the frames and the texts around them, in the order of the prompt."""
        yield _START
        due = 0.0
        for image, second in zip(self.frames, self.times, strict=True):
            yield image
            if second >= due:
                minutes = int(second // 60)
                yield f"[{minutes}m{second - 60 * minutes:.2f}s]"
                due += TIMESTAMP_SECONDS

    def __reduce__(self) -> tuple[Any, ...]:
        return Video, (self.frames, self.times)

    def __repr__(self) -> str:
        first = self.frames[0]
        return f"<Video {len(self.frames)} frames {first.width}x{first.height}, {self.times[-1]:.1f} s>"


def _second(value: object) -> float:
    second = as_float(value)
    if second is None or not math.isfinite(second) or second < 0:
        raise MediaError(f"a time must be a number of seconds from 0, got {shown(value)}")
    return second


__all__ = ["TIMESTAMP_SECONDS", "Video"]
