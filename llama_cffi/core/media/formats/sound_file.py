"""A sound file: its format, its length, and the bytes to decode."""

from __future__ import annotations

from llama_cffi.core.media.formats import flac, mp3, wav
from llama_cffi.core.media.formats.sound import SoundFile
from llama_cffi.errors import MediaError


def read_sound(data: bytes) -> SoundFile:
    """Return what a sound file says.

    Raises :class:`MediaError` for bytes of no known format, for a file that is cut or whose structure is damaged, and
    for a sound that is empty or too long.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return wav.read(data)
    if data[:4] == b"fLaC":
        return flac.read(data)
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return mp3.read(data)
    raise MediaError(f"not a sound: the data begins with {data[:8]!r}; allowed are WAV, MP3 and FLAC")


__all__ = ["read_sound"]
