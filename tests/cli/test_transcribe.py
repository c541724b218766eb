"""``llama-cffi transcribe``, as its users run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Audio
from llama_cffi.prompt.transcription import transcription_messages
from tests.cli.test_commands import clean_environment, refused, run
from tests.support.media_kinds import TEMPLATE, Kind, open_llama, tone, write_kind

__all__ = ["clean_environment"]  # a fixture of every test here, too

SAMPLED: Any = {"temperature": 2.0, "seed": 3, "max_tokens": 8}


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    folder = tmp_path_factory.mktemp("sound")
    for hertz in (220, 2000):
        (folder / f"{hertz}.wav").write_bytes(tone(hertz))
    (folder / "template").write_text(TEMPLATE)
    return write_kind(folder, "llama", assets)


@pytest.fixture(scope="module")
def expected(kind: Kind) -> list[str]:
    with open_llama(kind) as llm:
        sounds = [Audio(kind.model.parent / f"{hertz}.wav") for hertz in (220, 2000)]
        return [
            llm.chat(transcription_messages(one, language="de"), chat_template=TEMPLATE, **SAMPLED).text
            for one in sounds
        ]


def test_each_file_is_a_line(kind: Kind, expected: list[str]) -> None:
    folder = kind.model.parent
    given: list[str | Path] = ["-m", kind.model, "--chat-template-file", folder / "template", "-l", "de", "-t", "1"]
    given += ["-n", "8", "--temp", "2", "-s", "3"]
    files = (folder / "220.wav", folder / "2000.wav")
    done = run("transcribe", *files, *given)  # the projector is beside the model
    assert done.stdout.splitlines() == [" ".join(text.split()) for text in expected]
    (line,) = run("transcribe", files[1], *given, "-mm", kind.projector, "--json").stdout.splitlines()
    report = json.loads(line)
    assert (report["file"], report["text"], report["completion_tokens"]) == (str(files[1]), expected[1], 8)


def test_what_cannot_be_transcribed(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    assert "text.wav" in refused(1, "transcribe", tmp_path / "text.wav", "-m", kind.model)
    assert "none.wav" in refused(1, "transcribe", tmp_path / "none.wav", "-m", kind.model)
    assert "projector" in refused(1, "transcribe", kind.model.parent / "220.wav")
