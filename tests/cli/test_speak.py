"""``llama-cffi speak``, as its users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_cffi import Audio, Llama
from tests.cli.test_commands import clean_environment, refused, run
from tests.support.media_kinds import tone
from tests.support.speech_models import SpeakingModel, write_speaking_model

__all__ = ["clean_environment"]  # a fixture of every test here, too


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> SpeakingModel:
    folder = tmp_path_factory.mktemp("speech")
    (folder / "voice.wav").write_bytes(tone(330))
    return write_speaking_model(folder, "pockettts")


def test_a_text_becomes_a_file(speaking: SpeakingModel, tmp_path: Path) -> None:
    out, voice = tmp_path / "out.wav", speaking.model.parent / "voice.wav"
    given: list[str | Path] = ["-m", speaking.model, "-t", "1", "-n", "4", "-s", "3"]
    # The projector is beside the model.
    done = run("speak", "Hello there", "-o", out, "--tts-speaker-file", voice, "--json", *given)
    report = json.loads(done.stdout)
    with Llama(speaking.model, mmproj=speaking.projector, n_threads=1) as llm:
        expected = llm.speak("Hello there", voice=voice, seed=3, max_frames=4)
    assert out.read_bytes() == expected.wav()
    assert (report["frames"], report["finish_reason"], report["sample_rate"]) == (4, "length", 24000)
    for more, said in ((["-"], "Hello there\n"), ([], "Hello there"), (["-p", "Hello there"], None)):
        assert run("speak", *more, "-o", "-", "--voice", voice, *given, stdin=said).returncode == 0
    assert report["seconds"] == Audio(out).seconds == 4 * 0.08


@pytest.mark.conformance
def test_a_process_of_its_own_speaks(speaking: SpeakingModel, tmp_path: Path) -> None:
    given: list[str | Path] = ["-m", speaking.model, "-t", "1", "-n", "4", "-s", "3"]
    for out, more in (("here.wav", []), ("there.wav", ["--isolate"])):
        assert run("speak", "Hello there", "-o", tmp_path / out, *given, *more).returncode == 0
    assert (tmp_path / "there.wav").read_bytes() == (tmp_path / "here.wav").read_bytes()


def test_what_cannot_be_spoken(speaking: SpeakingModel, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    assert "none.wav" in refused(1, "speak", "Hi", "-o", out, "-m", speaking.model, "--voice", "none.wav")
    assert "projector" in refused(1, "speak", "Hi", "-o", out)
    # Not a speech without an end.
    assert "--n-predict must be an int from 1" in refused(1, "speak", "Hi", "-o", out, "-m", speaking.model, "-n", "0")
    assert not out.exists()
    assert "no such folder" in refused(1, "speak", "Hi", "-o", tmp_path / "none" / "out.wav", "-m", "none.gguf")
    assert "is a directory" in refused(1, "speak", "Hi", "-o", tmp_path, "-m", "none.gguf")
    assert "no text" in refused(2, "speak", "-o", out, stdin="")
