"""Images as values, and what is refused before native code sees it."""

from __future__ import annotations

import base64
import copy
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Image
from llama_cffi.core.media.limits import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_SIDE
from llama_cffi.errors import MediaError
from tests.support.pictures import more_pictures, pictures, png, scene

SIZES = {"one pixel": (1, 1), "long": (3000, 10)}


@pytest.mark.parametrize("name", pictures())
def test_the_header_says_the_size(name: str) -> None:
    image = Image(pictures()[name])
    # An orientation in EXIF turns nothing: libmtmd does not look at it.
    assert (image.width, image.height) == SIZES.get(name, (97, 61))


@pytest.mark.parametrize("name", more_pictures())
def test_other_formats_are_read(name: str) -> None:
    image = Image(more_pictures()[name])
    assert (image.width, image.height) == (40, 30)


def test_sources_of_the_same_bytes_are_equal(tmp_path: Path) -> None:
    data = pictures()["gray"]
    path = tmp_path / "gray.png"
    path.write_bytes(data)
    encoded = base64.b64encode(data).decode()
    lines = "\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))
    sources = (
        data, bytearray(data), memoryview(data), path, str(path), f"data:image/png;base64,{encoded}",
        f"data:;base64,{lines}", f"data:image/png;charset=x;base64,{encoded.replace('+', '%2B')}", Image(data),
    )  # fmt: skip
    images = {Image(source) for source in sources}
    assert len(images) == 1
    assert images.pop().digest == Image(data).digest
    assert Image(data) != Image(pictures()["alpha"])
    assert Image(data) != data


def test_pixels_and_pillow_images() -> None:
    picture = scene(20, 10)
    pixels = np.asarray(picture)
    image = Image(pixels)
    assert (image.format, image.width, image.height) == ("rgb", 20, 10)
    assert image == Image(picture) == Image(np.asfortranarray(pixels))
    assert image != Image(pixels[:, ::-1])
    assert image != Image(pixels.reshape(20, 10, 3))
    assert Image(picture.convert("L")).data == np.asarray(picture.convert("L").convert("RGB")).tobytes()
    deep = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
    assert Image(picture.fromarray(deep) if hasattr(picture, "fromarray") else _pillow(deep)).data[:3] == bytes(
        [int(deep[0, 0]) >> 8] * 3
    )


def _pillow(array: object) -> object:
    from PIL import Image as Pillow

    return Pillow.fromarray(array)  # type: ignore[arg-type]


def test_a_value_is_frozen_and_travels() -> None:
    for image in (Image(pictures()["gray"]), Image(np.zeros((2, 3, 3), dtype=np.uint8))):
        with pytest.raises(AttributeError, match="cannot be changed"):
            image.width = 5
        with pytest.raises(AttributeError, match="cannot be changed"):
            del image.data
        twin = pickle.loads(pickle.dumps(image))
        assert twin == image
        assert twin.data == image.data
        assert copy.copy(image) is copy.deepcopy(image) is image


@pytest.mark.parametrize("name", [*pictures(), *more_pictures()])
def test_cut_files_are_refused(name: str) -> None:
    data = {**pictures(), **more_pictures()}[name]
    whole = Image(data)
    for end in sorted({*range(1, 60), *range(60, len(data) - 1, max(1, len(data) // 97))}):
        cut = data[:end]
        if whole.format == "gif" and cut.endswith(b"\0"):
            continue  # at the end of a block, which is no damage
        with pytest.raises(MediaError):
            Image(cut)


def test_decompression_bombs_are_refused() -> None:
    row = b"\0" + bytes(3 * 10)
    assert Image(png(10, 10, zlib.compress(row * 10))).width == 10
    bomb = zlib.compress(bytes(1 << 24), 9)
    with pytest.raises(MediaError, match="longer than the 310 bytes"):
        Image(png(10, 10, bomb))
    with pytest.raises(MediaError, match="too large"):
        Image(png(MAX_SIDE, MAX_SIDE, bomb))
    with pytest.raises(MediaError, match="too large"):
        Image(png(MAX_SIDE + 1, 1, bomb))
    with pytest.raises(MediaError, match="its size needs"):
        Image(png(10, 11, zlib.compress(row * 10)))


def test_a_file_that_was_right_is_not_decompressed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(10, 10, zlib.compress(b"\1" + bytes(30) + (b"\0" + bytes(30)) * 9))
    whole = Image(data)
    monkeypatch.delattr(zlib, "decompressobj")
    assert Image(bytes(bytearray(data))) == whole
    with pytest.raises(AttributeError):
        Image(data + b"\0")


def test_interlaced_pictures_have_their_length() -> None:
    # One byte a pixel: passes of 2, 2, 2, 4, 3, 7 and 5 rows with their widths, for 9 by 10 pixels.
    sizes = [(2, 2), (1, 2), (3, 1), (2, 3), (5, 2), (4, 5), (9, 5)]
    raw = b"".join((b"\0" + bytes(width)) * height for width, height in sizes)
    assert Image(png(9, 10, zlib.compress(raw), color=0, interlace=1)).height == 10
    with pytest.raises(MediaError, match="its size needs"):
        Image(png(9, 10, zlib.compress(raw[:-1]), color=0, interlace=1))


@pytest.mark.parametrize(
    "source",
    [
        b"", b"\0" * 100, b"<svg/>", b"GIF89a", b"BM", b"P6 10 10 255 ", b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n", "", "no such file", "data:image/png,", "data:image/png;base64", "data:;base64,====",
        "data:;base64,\u00e9", "https://example.com/cat.png", "HTTP://x/y.png", "file:///etc/passwd", Path("/"),
        Path("/dev/zero"), np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2, 4), dtype=np.uint8),
        np.zeros((2, 2, 3), dtype=np.float32), np.zeros((0, 2, 3), dtype=np.uint8),
    ],
    ids=lambda source: repr(source)[:40],
)  # fmt: skip
def test_what_is_no_image_is_refused(source: object) -> None:
    with pytest.raises((MediaError, ValueError)):
        Image(source)


@pytest.mark.parametrize("source", [None, 5, ["cat.png"], object()])
def test_what_no_image_can_come_from_is_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match="expected a path, a data: URL or bytes"):
        Image(source)


def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(pictures()["gray"])
        file.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(MediaError, match="too many for a medium"):
        Image(path)
    with pytest.raises(MediaError, match="too large"):
        Image(np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1000 + 1, 1000, 3)))
