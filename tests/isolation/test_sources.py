"""Models in memory, in open files and in archives, in a process of their own."""

from __future__ import annotations

import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ArchiveMember, Llama
from llama_cffi.core.source import open_source
from llama_cffi.errors import EngineCrashed, ModelFileError
from tests.support.random_model import write_random_model

OPTIONS: dict[str, Any] = {"n_ctx": 64, "n_threads": 1, "n_seq_max": 1}
PROMPT = "tana nese"


def answer(llama: Llama) -> str:
    return llama.generate(PROMPT, max_tokens=6, temperature=0).text


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "m.gguf")


@pytest.fixture(scope="module")
def expected(path: Path) -> Iterator[str]:
    with Llama(path, **OPTIONS) as llama:
        yield answer(llama)


def test_bytes_outlive_a_crash(path: Path, expected: str) -> None:
    data = path.read_bytes()
    with Llama(data, isolate=True, **OPTIONS) as llama:
        assert answer(llama) == expected
        assert "bytes in memory" in repr(llama)
        pid = llama._runtime.pid  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed):
            llama.generate(PROMPT, max_tokens=50, temperature=0)
        assert answer(llama) == expected


def test_parts_of_files(path: Path, expected: str, tmp_path: Path) -> None:
    shifted = tmp_path / "shifted"
    shifted.write_bytes(b"." * 33 + path.read_bytes())
    with open(shifted, "rb") as file:
        file.seek(33)
        with Llama(file, isolate=True, **OPTIONS) as llama:
            assert answer(llama) == expected
    packed = tmp_path / "m.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(path, "m.gguf")
    source = open_source(ArchiveMember(packed))
    assert source is not None
    assert source.passed() == ArchiveMember(packed, "m.gguf")  # opened by its path
    assert source.descriptors == ()
    source.close()
    with pytest.raises(ModelFileError, match="bytes in memory"):
        Llama(path.read_bytes()[:9000], isolate=True, **OPTIONS)
