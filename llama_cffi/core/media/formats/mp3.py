"""MP3: frames, one after the other, each with its length in its header."""

from __future__ import annotations

from llama_cffi.core.media.formats.checks import check_sound, cut, damaged
from llama_cffi.core.media.formats.sound import SoundFile
from llama_cffi.core.media.limits import MAX_SECONDS

_RATES = (44100, 48000, 32000)
# Kilobits per second by index, for (MPEG 1 or not, layer).
_BITRATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI", b"\0\0\0\0")
"""What may follow the frames."""
_MAX_FRAMES = int(MAX_SECONDS * 48000 / 384) + 2


def read(data: bytes) -> SoundFile:
    """Return what an MP3 file says; raises :class:`MediaError`."""
    at = _skip_tag(data)
    start, rate, channels, samples, n_frames = at, 0, 0, 0, 0
    announced = None
    while (frame := _frame(data, at)) is not None:
        length, frame_rate, frame_channels, frame_samples, tag = frame
        if n_frames == 0:
            rate, channels = frame_rate, frame_channels
            announced = _announced(data[at : at + length], tag)
        elif frame_rate != rate:
            damaged("MP3", f"its sample rate changes from {rate} to {frame_rate}")
        if at + length > len(data):
            break
        at += length
        samples += frame_samples
        n_frames += 1
        if n_frames > _MAX_FRAMES:
            check_sound(rate, channels, samples)
    if n_frames == 0:
        if frame is not None:
            cut("MP3")
        damaged("MP3", f"there is no frame at byte {start}")
    if frame is None and at + 4 <= len(data) and not data.startswith(_TAGS, at):
        damaged("MP3", f"there is no frame at byte {at}")
    # The frame that announces the others has no sound, and some writers count it, too.
    if announced is not None and not n_frames - 1 <= announced < n_frames + (frame is None):
        if announced >= n_frames:
            cut("MP3")
        damaged("MP3", f"it has {n_frames} frames and announces {announced}")
    check_sound(rate, channels, samples)
    # What follows the frames are tags: without them the decoder finds no frames where there are none.
    return SoundFile("mp3", rate, channels, samples, data[start:at])


def _skip_tag(data: bytes) -> int:
    at = 0
    while data[at : at + 3] == b"ID3":
        if at + 10 > len(data):
            cut("MP3")
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
    while at < len(data) and data[at] == 0:
        at += 1  # padding behind a tag
    if at >= len(data):
        cut("MP3")
    return at


def _frame(data: bytes, at: int) -> tuple[int, int, int, int, int] | None:
    """Bytes, sample rate, channels and samples of the frame that begins here, and where a tag may be in it."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    rate_index, bit_index, padding = data[at + 2] >> 2 & 3, data[at + 2] >> 4, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or rate_index == 3 or bit_index in (0, 15):
        return None
    is_1 = version == 3
    rate = _RATES[rate_index] >> (0 if is_1 else 1 if version == 2 else 2)
    bitrate = _BITRATES[is_1, layer][bit_index] * 1000
    samples = 384 if layer == 1 else 1152 if layer == 2 or is_1 else 576
    # The first layer counts words of four bytes.
    length = (12 * bitrate // rate + padding) * 4 if layer == 1 else samples // 8 * bitrate // rate + padding
    is_mono = data[at + 3] >> 6 == 3
    side = (17 if is_mono else 32) if is_1 else (9 if is_mono else 17)
    tag = 4 + (0 if data[at + 1] & 1 else 2) + side
    return length, rate, 1 if is_mono else 2, samples, tag


def _announced(frame: bytes, tag: int) -> int | None:
    """How many frames the first one says there are, if it does."""
    if frame[tag : tag + 4] not in (b"Xing", b"Info") or not (len(frame) >= tag + 12 and frame[tag + 7] & 1):
        return None
    return int.from_bytes(frame[tag + 8 : tag + 12], "big")


__all__ = ["read"]
