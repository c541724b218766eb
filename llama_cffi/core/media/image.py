"""An image, as a value."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from llama_cffi._util.shown import shown
from llama_cffi.core.media.formats.checks import check_size
from llama_cffi.core.media.formats.image_file import ImageFormat, read_size
from llama_cffi.core.media.limits import MAX_IMAGE_BYTES
from llama_cffi.core.media.source import naming, read_source
from llama_cffi.core.media.value import DIGEST_SIZE, MediaValue
from llama_cffi.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Image(MediaValue):
    """An image for a model that sees: a value, which compares, hashes and pickles by its content.

    ``source`` is the path of a PNG, JPEG, GIF (its first picture), BMP, PNM or WebP file, the bytes of one, a ``data:``
    URL, a uint8 array of shape ``(height, width, 3)`` in RGB, or a Pillow image. A file is read at once and decoded by
    libmtmd: as there, transparency is dropped and an orientation in EXIF is not applied. WebP needs an ``ffmpeg``
    program.

    Raises :class:`MediaError` for what is not an image, is cut, damaged or too large, and TypeError for anything else.
    Needs no library.
    """

    __slots__ = ("data", "format", "height", "width")

    data: bytes
    """The file, or the pixels row by row where ``format`` is "rgb"."""
    format: ImageFormat | Literal["rgb"]
    """What ``data`` is."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    digest: bytes
    """16 bytes: a hash of format, size and data. Equal images have equal digests."""

    def __init__(self, source: str | os.PathLike[str] | bytes | NDArray[np.uint8] | Any) -> None:
        if isinstance(source, np.ndarray):
            self._set_pixels(source)
        elif isinstance(source, Image):
            self._set(source.data, source.format, source.width, source.height)
        elif hasattr(source, "convert") and hasattr(source, "getbands"):
            self._set_pixels(_from_pillow(source))
        else:
            with naming(source):
                data = read_source(source, MAX_IMAGE_BYTES)
                self._set(data, *read_size(data))

    def _set_pixels(self, array: NDArray[Any]) -> None:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise MediaError(
                f"an array of pixels must be uint8 of shape (height, width, 3), got {array.dtype} of {array.shape}"
            )
        height, width, _ = array.shape
        check_size(width, height)
        self._set(array.tobytes(), "rgb", width, height)

    def _set(self, data: bytes, kind: ImageFormat | Literal["rgb"], width: int, height: int) -> None:
        found = blake2b(f"image {kind} {width} {height}\0".encode(), digest_size=DIGEST_SIZE)
        found.update(data)
        self._hold(data=data, format=kind, width=width, height=height, digest=found.digest())

    def __reduce__(self) -> tuple[Any, ...]:
        return _image, (self.data, self.format, self.width, self.height)

    def __repr__(self) -> str:
        return f"<Image {self.format} {self.width}x{self.height}, {len(self.data)} bytes>"


def _image(data: bytes, kind: ImageFormat | Literal["rgb"], width: int, height: int) -> Image:
    """An image of a pickle: its bytes are checked again, because a pickle may come from elsewhere."""
    if kind != "rgb":
        return Image(data)
    if len(data) != width * height * 3:
        raise MediaError(f"{len(data)} bytes are not an image of {width} by {height} pixels")
    return Image(np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3))


def _from_pillow(picture: Any) -> NDArray[np.uint8]:
    """The pixels of a Pillow image."""
    check_size(*picture.size)
    try:
        if str(picture.mode).startswith("I;16"):
            # Pillow cuts 16 bits off above 255.
            gray = (np.asarray(picture, dtype=np.uint16) >> 8).astype(np.uint8)
            return np.stack([gray] * 3, axis=2)
        return cast("NDArray[np.uint8]", np.asarray(picture.convert("RGB"), dtype=np.uint8))
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{shown(picture)} cannot be decoded: {error}") from error


__all__ = ["Image"]
