"""Sounds as values, and what is refused before native code sees it."""

from __future__ import annotations

import copy
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Audio
from llama_cffi.core.media.formats.wav import float_file
from llama_cffi.errors import MediaError
from tests.support.sounds import flac, mp3, tone, wav

EXTRA = b"LIST" + struct.pack("<I", 5) + b"hello\0"


def test_headers_say_rate_channels_and_length(checkout: Path) -> None:
    sound = tone(0.25, 22050)
    assert _facts(Audio(wav(sound, 22050, 2))) == ("wav", 22050, 2, len(sound))
    assert _facts(Audio(wav(sound, 22050, bits=8))) == ("wav", 22050, 1, len(sound))
    assert _facts(Audio(wav(sound, 22050, bits=32, extra=EXTRA))) == ("wav", 22050, 1, len(sound))
    assert _facts(Audio(flac(sound, 22050))) == ("flac", 22050, 1, len(sound))
    assert _facts(Audio(mp3(40))) == ("mp3", 44100, 1, 40 * 1152)
    assert _facts(Audio(mp3(40, announced=40)))[3] == 41 * 1152
    recorded = checkout / "vendor" / "llama.cpp" / "tools" / "mtmd" / "test-2.mp3"
    if recorded.is_file():
        assert 1 < Audio(recorded).seconds < 60
    assert Audio(wav(sound, 22050)).seconds == pytest.approx(0.25, abs=1e-3)


def _facts(audio: Audio) -> tuple[object, ...]:
    return audio.format, audio.sample_rate, audio.n_channels, audio.n_samples


def test_samples() -> None:
    sound = tone(0.1)
    audio = Audio(sound, 16000)
    assert _facts(audio) == ("pcm", 16000, 1, len(sound))
    assert audio == Audio(sound.copy(), sample_rate=16000)
    assert audio != Audio(sound, 8000)
    assert audio.file().body == float_file(16000, sound.tobytes())
    assert _facts(Audio(audio.file().body)) == ("wav", 16000, 1, len(sound))


def test_only_the_sound_is_decoded() -> None:
    sound = tone(0.1)
    plain = Audio(wav(sound))
    assert Audio(wav(sound, extra=EXTRA)).file().body == plain.file().body
    stream = bytearray(wav(sound))
    stream[40:44] = b"\xff" * 4
    assert Audio(bytes(stream)).file().body == plain.file().body
    tagged = b"ID3\x04\0\0\0\0\0\x0a" + b"x" * 10 + mp3(8) + b"TAG" + bytes(125)
    assert Audio(tagged).file().body == mp3(8)


def test_a_value_is_frozen_and_travels() -> None:
    for audio in (Audio(wav(tone(0.1))), Audio(tone(0.1), 16000)):
        with pytest.raises(AttributeError, match="cannot be changed"):
            audio.sample_rate = 5
        with pytest.raises(AttributeError, match="cannot be changed"):
            del audio.data
        twin = pickle.loads(pickle.dumps(audio))
        assert twin == audio
        assert twin.data == audio.data
        assert copy.copy(audio) is copy.deepcopy(audio) is audio
        assert len({audio, twin}) == 1


@pytest.mark.parametrize("data", [wav(tone(0.05)), flac(tone(0.2)), mp3(8, announced=8)], ids=["wav", "flac", "mp3"])
def test_cut_files_are_refused(data: bytes) -> None:
    for end in sorted({*range(1, 60), *range(60, len(data) - 1, max(1, len(data) // 97))}):
        if data.startswith(b"fLaC") and end > len(data) - 1300:
            continue  # the last frame has begun
        with pytest.raises(MediaError):
            Audio(data[:end])


def test_a_length_that_the_file_does_not_have_is_refused() -> None:
    sound = flac(tone(0.2))
    with pytest.raises(MediaError, match="cut"):
        Audio(sound[:18] + (16000 << 44 | 15 << 36 | 16000).to_bytes(8, "big") + sound[26:])
    with pytest.raises(MediaError, match="too long"):
        Audio(sound[:18] + (16000 << 44 | 15 << 36 | (1 << 36) - 1).to_bytes(8, "big") + sound[26:])
    with pytest.raises(MediaError, match="does not say how long"):
        Audio(sound[:18] + (16000 << 44 | 15 << 36).to_bytes(8, "big") + sound[26:])
    with pytest.raises(MediaError, match="cut"):
        Audio(mp3(8, announced=1 << 31))
    with pytest.raises(MediaError, match="announces 3"):
        Audio(mp3(8, announced=3))


def _form(tag: int = 1, channels: int = 1, rate: int = 16000, frame: int = 2, bits: int = 16) -> bytes:
    form = struct.pack("<HHIIHH", tag, channels, rate, 0, frame, bits)
    data = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", 200) + bytes(200)
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WAVE" + data


def test_other_forms_are_refused() -> None:
    assert Audio(_form()).n_samples == 100
    for form, reason in (
        (_form(tag=2), "encoding 2 with 16 bits"), (_form(bits=12), "encoding 1 with 12 bits"),
        (_form(rate=0), "0 samples per second"), (_form(rate=10), "10 samples per second"),
        (_form(rate=2**32 - 1), "samples per second"), (_form(channels=0, frame=0), "0 channels"),
        (_form(channels=100, frame=200), "100 channels"), (_form(frame=0), "0 bytes for 1 samples"),
        (_form(frame=4), "4 bytes for 1 samples"), (wav(np.zeros(0, dtype=np.float32)), "empty"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=reason):
            Audio(form)


@pytest.mark.parametrize(
    "source",
    [
        b"", b"\0" * 100, b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEdata\0\0\0\0", b"fLaC" + bytes(60), b"ID3",
        b"\xff\xfb", b"\xff\xf1" + bytes(100), b"OggS" + bytes(100), "no such file", "https://example.com/a.wav",
    ],
    ids=lambda source: repr(source)[:40],
)  # fmt: skip
def test_what_is_no_sound_is_refused(source: str | bytes) -> None:
    with pytest.raises(MediaError):
        Audio(source)


def test_samples_are_checked() -> None:
    sound = tone(0.1)
    with pytest.raises(TypeError, match="needs its sample_rate"):
        Audio(sound)
    with pytest.raises(TypeError, match="a file has its own"):
        Audio(wav(sound), 16000)
    with pytest.raises(MediaError, match="float32 of one dimension, got float64"):
        Audio(sound.astype(np.float64), 16000)
    with pytest.raises(MediaError, match="float32 of one dimension"):
        Audio(sound[None], 16000)
    with pytest.raises(MediaError, match="samples per second"):
        Audio(sound, 1)
    with pytest.raises(MediaError, match="finite"):
        Audio(np.array([0.0, np.nan], dtype=np.float32), 16000)
    with pytest.raises(MediaError, match="too long: 3601 seconds"):
        Audio(np.broadcast_to(np.float32(0), 3_601_000), 1000)
    with pytest.raises(MediaError, match="empty"):
        Audio(sound[:0], 16000)
