"""A sound, as a value."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llama_cffi._util.scalars import as_int
from llama_cffi._util.shown import shown
from llama_cffi.core.media.formats.checks import check_sound
from llama_cffi.core.media.formats.sound import SoundFile, SoundFormat
from llama_cffi.core.media.formats.sound_file import read_sound
from llama_cffi.core.media.formats.wav import float_file, pcm16_file
from llama_cffi.core.media.limits import MAX_AUDIO_BYTES
from llama_cffi.core.media.source import naming, read_source
from llama_cffi.core.media.value import DIGEST_SIZE, MediaValue
from llama_cffi.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Audio(MediaValue):
    """A sound for a model that hears: a value, which compares, hashes and pickles by its content.

    ``source`` is the path of a WAV, MP3 or FLAC file, the bytes of one, a ``data:`` URL, or a float32 array of one
    dimension with samples from -1 to 1 and their ``sample_rate`` per second, which only an array takes. A file is read
    at once. libmtmd decodes it, mixes its channels and resamples it to the rate of the projector; an array too.

    Raises :class:`MediaError` for what is not a sound, is cut, damaged, empty or too long, and TypeError for anything
    else. Needs no library.
    """

    __slots__ = ("data", "format", "n_channels", "n_samples", "sample_rate")

    data: bytes
    """The file, or float32 samples where ``format`` is "pcm"."""
    format: SoundFormat | Literal["pcm"]
    """What ``data`` is."""
    sample_rate: int
    """Samples per second of one channel."""
    n_channels: int
    """1 for an array."""
    n_samples: int
    """Of one channel."""
    digest: bytes
    """16 bytes: a hash of format, rate and data. Equal sounds have equal digests."""

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | NDArray[np.float32] | Any,
        sample_rate: int | None = None,
    ) -> None:
        if isinstance(source, np.ndarray):
            self._set_samples(source, sample_rate)
            return
        if sample_rate is not None:
            raise TypeError("sample_rate belongs to an array of samples; a file has its own")
        if isinstance(source, Audio):
            self._set(source.data, source.format, source.sample_rate, source.n_channels, source.n_samples)
            return
        with naming(source):
            data = read_source(source, MAX_AUDIO_BYTES)
            found = read_sound(data)
        self._set(data, found.format, found.sample_rate, found.n_channels, found.n_samples)

    def _set_samples(self, array: NDArray[Any], sample_rate: int | None) -> None:
        if array.dtype != np.float32 or array.ndim != 1:
            raise MediaError(
                f"an array of samples must be float32 of one dimension, got {array.dtype} of {array.shape}"
            )
        rate = as_int(sample_rate)
        if rate is None:
            raise TypeError(f"an array of samples needs its sample_rate, an int, got {shown(sample_rate)}")
        check_sound(rate, 1, array.size)
        if not np.isfinite(array).all():
            raise MediaError("an array of samples must be finite: there are NaN or infinite values in it")
        self._set(array.tobytes(), "pcm", rate, 1, array.size)

    def _set(
        self, data: bytes, kind: SoundFormat | Literal["pcm"], sample_rate: int, n_channels: int, n_samples: int
    ) -> None:
        found = blake2b(f"audio {kind} {sample_rate}\0".encode(), digest_size=DIGEST_SIZE)
        found.update(data)
        self._hold(
            data=data,
            format=kind,
            sample_rate=sample_rate,
            n_channels=n_channels,
            n_samples=n_samples,
            digest=found.digest(),
        )

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.n_samples / self.sample_rate

    @property
    def samples(self) -> NDArray[np.float32]:
        """The samples of a sound that was made of an array, as speech is: float32 from -1 to 1 of shape
        ``(n_samples,)``, read-only. :class:`MediaError` for a file, which only libmtmd decodes."""
        if self.format != "pcm":
            raise MediaError(f"{self!r} is a file: its samples are not decoded here")
        found: NDArray[np.float32] = np.frombuffer(self.data, dtype=np.float32)
        return found

    def wav(self) -> bytes:
        """Return a WAV file of 16-bit integers of a sound that was made of an array; raises as :attr:`samples`."""
        return pcm16_file(self.sample_rate, self.samples)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sound to a file, which is replaced: the file that it was made of, or a WAV file of 16-bit integers.

        ``ValueError`` where a WAV file would get the suffix of another format.
        """
        suffix = os.path.splitext(os.fspath(path))[1].lower()
        if self.format == "pcm" and suffix not in ("", ".wav", ".wave"):
            raise ValueError(f"the sound is written as a WAV file: give a path that ends with .wav, not {suffix}")
        with open(path, "wb") as file:
            file.write(self.wav() if self.format == "pcm" else self.data)

    def file(self) -> SoundFile:
        """Return the bytes to decode, without what else the file holds; an array as a WAV file."""
        if self.format == "pcm":
            body = float_file(self.sample_rate, self.data)
            return SoundFile("wav", self.sample_rate, 1, self.n_samples, body)
        return read_sound(self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return _audio, (self.data, self.format, self.sample_rate)

    def __repr__(self) -> str:
        return f"<Audio {self.format} {self.seconds:.1f} s at {self.sample_rate}/s, {len(self.data)} bytes>"


def _audio(data: bytes, kind: SoundFormat | Literal["pcm"], sample_rate: int) -> Audio:
    """A sound of a pickle: its bytes are checked again, because a pickle may come from elsewhere."""
    if kind != "pcm":
        return Audio(data)
    if len(data) % 4:
        raise MediaError(f"{len(data)} bytes are not float32 samples")
    return Audio(np.frombuffer(data, dtype=np.float32), sample_rate)


__all__ = ["Audio"]
