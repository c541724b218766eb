# ruff: noqa: SIM115 - the caller of what opens a file closes it
"""Models from bytes, open files and archives, compared with the same models from their paths."""

from __future__ import annotations

import bz2
import gzip
import io
import mmap
import os
import random
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    ArchiveMember,
    Batch,
    Context,
    ContextOptions,
    GGUFFile,
    Llama,
    LlamaCffiError,
    Model,
    ModelOptions,
    estimate_memory,
)
from llama_cffi.core.source import Source, open_source
from llama_cffi.errors import ModelFileError, ModelNotFoundError, UnsupportedError
from tests.support.random_model import write_random_model

pytest_plugins = ("tests.support.models",)

CONTEXT = ContextOptions(n_ctx=64, n_batch=16, n_ubatch=16, n_threads=1, n_threads_batch=1)


@pytest.fixture(scope="module")
def data(model_path: Path) -> bytes:
    return model_path.read_bytes()


def logits(model: Model) -> np.ndarray:
    with Context(model, CONTEXT) as context:
        batch = Batch(4)
        for position, token in enumerate((1, 70, 90)):
            batch.add(token, position, 0, output=position == 2)
        context.decode(batch)
        return np.array(context.outputs.logits(2))


@pytest.fixture(scope="module")
def expected(model: Model) -> np.ndarray:
    return logits(model)


class Stream:
    """A binary file object that reads in small, odd portions, and nothing else."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._rng = data, 0, random.Random(1)

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._rng.choice([1, 2, 3, 1000, 100_000]))
        self._at += size
        return self._data[self._at - size : self._at]


def archive(path: Path, data: bytes, *, shift: int = 0, compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip archive with the model behind a file of some bytes."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("readme", b"x" * shift)
        file.writestr("folder/tiny.gguf", data)
    return path


def tar(path: Path, data: bytes, *, mode: Any = "w", more: int = 10) -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in (("readme", b"x" * more), ("folder/tiny.gguf", data), ("last", b"y" * more)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def spooled(data: bytes) -> Any:
    file = tempfile.SpooledTemporaryFile()
    file.write(data)
    file.seek(0)
    return file


def named(data: bytes) -> Any:
    file = tempfile.NamedTemporaryFile()
    file.write(data)
    file.seek(0)
    return file


def piped(data: bytes) -> Any:
    read, write = os.pipe()

    def feed() -> None:
        with open(write, "wb") as file:
            file.write(data)

    threading.Thread(target=feed, daemon=True).start()
    return open(read, "rb")


def behind(data: bytes, path: Path, n: int) -> Any:
    path.write_bytes(b"." * n + data)
    file = open(path, "rb")
    file.seek(n)
    return file


def written(data: bytes, path: Path) -> Any:
    file = open(path, "w+b")
    file.write(data)  # not flushed
    file.seek(0)
    return file


WAYS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "memoryview": lambda data, _: memoryview(b"12" + data)[2:],
    "numpy": lambda data, _: np.frombuffer(data, dtype=np.uint8),
    "BytesIO": lambda data, _: io.BytesIO(data),
    "BytesIO behind": lambda data, _: behind_bytes(data),
    "stream": lambda data, _: Stream(data),
    "pipe": lambda data, _: piped(data),
    "spooled": lambda data, _: spooled(data),
    "named": lambda data, _: named(data),
    "file": lambda data, path: open(write(path, data), "rb"),
    "raw file": lambda data, path: open(write(path, data), "rb", buffering=0),
    "written file": written,
    "mapped file": lambda data, path: mmap.mmap(os.open(write(path, data), os.O_RDONLY), 0, access=mmap.ACCESS_READ),
    "file behind 32": lambda data, path: behind(data, path, 32),
    "file behind 33": lambda data, path: behind(data, path, 33),
    "gzip": lambda data, path: gzip.open(write(path, gzip.compress(data, 1)), "rb"),
    "bzip2": lambda data, _: bz2.open(io.BytesIO(bz2.compress(data, 1)), "rb"),
    "tar": lambda data, path: ArchiveMember(tar(path, data)),
    "small in a tar": lambda data, path: ArchiveMember(tar(path, data, more=2 * len(data))),
    "zip": lambda data, path: ArchiveMember(archive(path, data), "folder/tiny.gguf"),
    "zip shifted": lambda data, path: ArchiveMember(archive(path, data, shift=7)),
    "path into a zip": lambda data, path: f"{archive(path, data)}/folder/tiny.gguf",
    "path into a tar": lambda data, path: tar(path, data) / "folder" / "tiny.gguf",
    "opened in a zip": lambda data, path: zipfile.ZipFile(archive(path, data)).open("folder/tiny.gguf"),
    "opened in a tar": lambda data, path: tarfile.open(tar(path, data)).extractfile("folder/tiny.gguf"),
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def behind_bytes(data: bytes) -> io.BytesIO:
    file = io.BytesIO(b"abc" + data)
    file.seek(3)
    return file


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def made(way: str, data: bytes, path: Path, closing: ExitStack) -> Any:
    found = WAYS[way](data, path)
    if hasattr(found, "close"):
        closing.callback(found.close)
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_the_same_from_everywhere(
    way: str, data: bytes, model: Model, expected: np.ndarray, tmp_path: Path, closing: ExitStack
) -> None:
    given = made(way, data, tmp_path / "place", closing)
    with Model(given) as loaded:
        assert loaded.fingerprint == model.fingerprint
        assert loaded.metadata == model.metadata
        assert not loaded.has_classifier
        np.testing.assert_array_equal(logits(loaded), expected)
        assert "/proc/" not in repr(loaded)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("way", ["bytes", "stream", "file", "file behind 33", "tar", "zip"])
def test_files_and_estimates_take_the_same(
    way: str, data: bytes, model_path: Path, tmp_path: Path, closing: ExitStack
) -> None:
    file, plain = GGUFFile(made(way, data, tmp_path / "one", closing)), GGUFFile(model_path)
    assert (file.metadata, file.tensors, file.file_size) == (plain.metadata, plain.tensors, plain.file_size)
    options = ModelOptions(use_extra_bufts=False, load_mode="none")
    estimate = estimate_memory(made(way, data, tmp_path / "two", closing), options, CONTEXT)
    wanted = estimate_memory(model_path, options, CONTEXT)
    assert (estimate.weights, estimate.kv, estimate.compute) == (wanted.weights, wanted.kv, wanted.compute)


def test_a_file_keeps_its_position_and_a_model_its_file(data: bytes, tmp_path: Path, expected: np.ndarray) -> None:
    path = write(tmp_path / "m.gguf", data)
    with open(path, "rb") as file, Model(file) as loaded:
        assert file.tell() == 0
        path.unlink()
        assert loaded.has_classifier is False
        np.testing.assert_array_equal(logits(loaded), expected)


@pytest.mark.parametrize("way", ["path", "file", "file behind 32"])
@pytest.mark.parametrize("change", [-1, -1000, 0, 1000])
def test_a_file_that_is_changed_while_it_is_loaded(
    way: str, change: int, data: bytes, tmp_path: Path, closing: ExitStack
) -> None:
    path = tmp_path / "place"
    given = write(path, data) if way == "path" else made(way, data, path, closing)
    changed: list[float] = []

    def progress(part: float) -> None:
        if not changed:
            changed.append(part)
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size + change)
                file.seek(-600, os.SEEK_END)
                file.write(bytes(600))

    # Mapped, a file ends with the page in which it ends; otherwise llama.cpp sees that it is shorter.
    mode: Any = "mmap" if change == -1 else "none"
    refused = pytest.raises(ModelFileError, match=r"was changed while it was loaded|reached end of file")
    # Of an open file, what was there when it was given is the model.
    with nullcontext() if change > 0 and way != "path" else refused:
        Model(given, ModelOptions(load_mode=mode), progress=progress).close()


def test_a_part_of_a_file_is_mapped_where_that_pays(data: bytes, tmp_path: Path) -> None:
    for way, mode in (("tar", "auto"), ("small in a tar", "none"), ("zip shifted", "none")):
        with Model(WAYS[way](data, tmp_path / way.replace(" ", ""))) as loaded:
            # The header of a zip archive has the length that it has.
            assert loaded.options.load_mode == mode or way == "zip shifted"
    with behind(data, tmp_path / "m", 33) as file:
        for wrong in ({"load_mode": "mmap"}, {"lazy_mode": "on"}, {"load_mode": "direct_io"}):
            with pytest.raises(UnsupportedError, match=r"multiple of 32|direct_io"):
                Model(file, ModelOptions(**wrong))  # type: ignore[arg-type]
    with behind(data, tmp_path / "m", 64) as file, Model(file, ModelOptions(load_mode="mmap")) as loaded:
        assert loaded.options.load_mode == "mmap"


def test_what_is_no_source(data: bytes, tmp_path: Path) -> None:
    text = write(tmp_path / "m.gguf", data)
    with open(text, encoding="latin-1") as file, pytest.raises(TypeError, match="open it with mode 'rb'"):
        Model(file)  # type: ignore[arg-type]

    class Odd:
        def __init__(self, answer: object) -> None:
            self._answer = answer

        def read(self, size: int) -> Any:
            return self._answer

    for answer in ("GGUF", None, 5):
        with pytest.raises(TypeError, match=r"returned \w+, not bytes"):
            Model(Odd(answer))  # type: ignore[arg-type]
    for empty in (b"", io.BytesIO(), Odd(b"")):
        with pytest.raises(ModelFileError, match="is empty"):
            Model(empty)  # type: ignore[arg-type]
    for other in (io.BytesIO(b"not a model"), b"\0\1\2\3" * 10, bytes(5000)):
        with pytest.raises(ModelFileError, match="is not a GGUF file: it begins with"):
            Model(other)
    with pytest.raises(ValueError, match="closed file"):
        Model(file_closed(text))
    with pytest.raises(OSError, match="gone"):
        Model(Failing())  # type: ignore[arg-type]


def file_closed(path: Path) -> Any:
    file = open(path, "rb")
    file.close()
    return file


class Failing:
    def read(self, size: int) -> bytes:
        raise OSError("gone")


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "split.gguf", metadata={"split.count": 3})
    with pytest.raises(UnsupportedError, match="one of the 3 files of a model"):
        Model(path.read_bytes())
    with open(path, "rb") as file, pytest.raises(UnsupportedError, match="one of the 3 files of a model"):
        Model(file)


# -- archives


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_opened_member_is_read_in_place(kind: str, data: bytes, tmp_path: Path, closing: ExitStack) -> None:
    path = (tar if kind == "tar" else archive)(tmp_path / kind, data)

    def member(of: Any) -> Any:
        if kind == "zip":
            return closing.enter_context(closing.enter_context(zipfile.ZipFile(of)).open("folder/tiny.gguf"))
        opened = {"name": of} if isinstance(of, Path) else {"fileobj": of}
        found = closing.enter_context(tarfile.open(**opened)).extractfile("folder/tiny.gguf")
        return closing.enter_context(found) if found is not None else None

    def source(of: Any) -> Source:
        found = open_source(of)
        assert found is not None
        closing.callback(found.close)
        with found.open() as file:
            assert file.read() == data
        return found

    start = ArchiveMember(path, "folder/tiny.gguf").find()[1]
    for of in (path, closing.enter_context(path.open("rb")), closing.enter_context(path.open("r+b"))):
        file = member(of)
        assert source(file).offset == start
        assert file.tell() == 0
        assert file.read(4) == b"GGUF"
    # Not on a disk, or not as it stands there: copied.
    assert source(member(io.BytesIO(path.read_bytes()))).offset == 0
    read = member(path)
    assert read.read(1) == b"G"
    with pytest.raises(ModelFileError, match="begins with b'GUF"):
        open_source(read)
    behind = member(path)
    path.write_bytes(path.read_bytes()[: start + 1000])
    with pytest.raises(ModelFileError, match="is truncated: its archive has"):
        open_source(behind)


def test_an_archive_may_end_with_another_one(data: bytes, tmp_path: Path) -> None:
    inner, path = archive(tmp_path / "inner.zip", b"GGUF of the inner one"), tmp_path / "outer.tar"
    with tarfile.open(path, "w") as outer:
        outer.addfile(tar_info("folder/tiny.gguf", len(data)), io.BytesIO(data))
        outer.add(inner, "last.zip")
    with Model(ArchiveMember(path), ModelOptions(vocab_only=True)) as model:
        assert model.name == f"{path}/folder/tiny.gguf"


def test_archives_that_contradict_themselves(data: bytes, tmp_path: Path) -> None:
    whole = archive(tmp_path / "m.zip", data).read_bytes()
    at = whole.rindex(b"PK\1\2")
    for place, value in ((20, b"\0\0\0\0"), (42, b"\xff\xff\xff\x7f"), (42, b"\1\0\0\0")):
        content = bytearray(whole)
        content[at + place : at + place + 4] = value
        with pytest.raises(ModelFileError, match="damaged zip archive"):
            Model(ArchiveMember(write(tmp_path / "wrong.zip", bytes(content)), "folder/tiny.gguf"))
    header = bytearray(tar_info("m.gguf", 512).tobuf())
    header[124:136] = b"\xff" * 11 + b"\0"  # a negative size, behind which the archive begins anew
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ModelFileError, match=r"damaged|truncated|empty"):
        Model(ArchiveMember(write(tmp_path / "wrong.tar", bytes(header) + bytes(1024))))


def tar_info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def test_compressed_archives_are_refused(data: bytes, tmp_path: Path) -> None:
    data = data[:20_000]
    for method, name in ((zipfile.ZIP_DEFLATED, "deflate"), (zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")):
        path = archive(tmp_path / f"{name}.zip", data, compression=method)
        for given in (ArchiveMember(path), f"{path}/folder/tiny.gguf"):
            with pytest.raises(UnsupportedError, match=rf"is compressed \({name}\).*ZIP_STORED"):
                Model(given)
        with zipfile.ZipFile(path) as file:
            member: Any = file.open("folder/tiny.gguf")
            with member, pytest.raises(UnsupportedError, match=rf"is compressed \({name}\)"):
                Model(member)
    for mode, name in (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")):
        path = tar(tmp_path / "m.tar", data, mode=mode)
        with pytest.raises(UnsupportedError, match=f"is compressed with {name}"):
            Model(ArchiveMember(path))


def test_members_that_are_not_there(data: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path / "m.zip", data)
    for given in (ArchiveMember(path, "tiny.gguf"), path / "tiny.gguf"):
        with pytest.raises(ModelNotFoundError, match=r"has no tiny.gguf; its GGUF files are: folder/tiny.gguf"):
            Model(given)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("second.gguf", b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"give a name; its GGUF files are: folder/tiny.gguf, second.gguf"):
        Model(ArchiveMember(path))
    with pytest.raises(ModelNotFoundError, match="no such file"):
        Model(ArchiveMember(tmp_path / "none.zip"))
    with pytest.raises(ModelFileError, match="not a zip or tar archive"):
        Model(ArchiveMember(write(tmp_path / "text", b"hello " * 1000)))
    with pytest.raises(ModelNotFoundError, match="no such file"):
        Model(tmp_path / "text" / "m.gguf")  # a path through a file that is no archive
    with tarfile.open(tmp_path / "link.tar", "w") as links:
        info = tarfile.TarInfo("m.gguf")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        links.addfile(info)
    with pytest.raises(UnsupportedError, match="is a link in the archive"):
        Model(ArchiveMember(tmp_path / "link.tar"))
    for wrong in (None, 5, b"m.zip"):
        with pytest.raises(TypeError, match="archive must be the path"):
            ArchiveMember(wrong)  # type: ignore[arg-type]


def test_an_encrypted_member_is_refused(data: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path / "m.zip", data)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UnsupportedError, match="is encrypted"):
        Model(ArchiveMember(path))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_truncated_member_does_not_read_its_neighbor(kind: str, data: bytes, tmp_path: Path) -> None:
    """llama.cpp compares the end of a tensor with the end of the whole file."""
    short, path = data[: len(data) - 1000], tmp_path / kind
    if kind == "tar":
        tar(path, short, more=4000)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("tiny.gguf", short)
            file.writestr("next", bytes(4000))
    for mode in ("auto", "none"):
        with pytest.raises(ModelFileError, match="truncated"):
            Model(ArchiveMember(path), ModelOptions(load_mode=mode))
    cut = write(tmp_path / "cut", path.read_bytes()[: len(short) // 2])
    with pytest.raises(ModelFileError, match=r"truncated|not a zip or tar"):
        Model(ArchiveMember(cut))


def test_a_member_without_a_name(data: bytes, tmp_path: Path) -> None:
    """Python's module looks at the last letter of each name."""
    path = archive(tmp_path / "m.zip", data)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")
    assert content[at + 28 : at + 30] == b"\6\0"  # "readme"
    content[at + 28 : at + 30] = bytes(2)
    content[at + 30 : at + 32] = b"\6\0"  # its letters are an extra field now
    content[at + 46 : at + 52] = b"\0\0\2\0ab"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is a damaged zip archive"):
        Model(ArchiveMember(path))


def test_damaged_archives_raise(data: bytes, tmp_path: Path) -> None:
    """Any bytes of an archive are changed: the result is the model, another one, or an error of this package."""
    small = data[:6000]
    for kind in ("zip", "tar"):
        path = archive(tmp_path / "a", small) if kind == "zip" else tar(tmp_path / "a", small)
        whole = path.read_bytes()
        edges = [*range(600), *range(len(whole) - 600, len(whole))]
        outcomes = set()
        for seed in range(40):
            rng = random.Random(seed)
            changed = bytearray(whole)
            for _ in range(rng.choice([1, 1, 3])):
                changed[rng.choice(edges)] = rng.choice([0, 255, rng.randrange(256)])
            path.write_bytes(changed)
            try:
                source = open_source(ArchiveMember(path))
                assert source is not None
                source.close()
                outcomes.add("opened")
            except LlamaCffiError as error:
                outcomes.add(type(error).__name__)
        assert {"opened", "ModelFileError"} <= outcomes, outcomes


# -- damage and lifetimes


def test_damaged_bytes_fail_as_damaged_files_do(data: bytes, tmp_path: Path) -> None:
    path, packed = tmp_path / "m.gguf", tmp_path / "m.tar"
    counts = {"loaded": 0, "failed": 0}
    for seed in range(24):
        rng = random.Random(seed)
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 10])):
            changed[int(rng.random() ** 3 * 24_000)] = rng.choice([0, 1, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del changed[rng.randrange(len(changed)) :]
        path.write_bytes(changed)
        tar(packed, bytes(changed))
        outcomes = []
        for given in (path, bytes(changed), open(path, "rb"), ArchiveMember(packed)):
            try:
                Model(given).close()
                outcomes.append("loaded")
            except LlamaCffiError as error:
                outcomes.append("failed" if "/proc/" not in str(error) else str(error))
            if isinstance(given, io.IOBase):
                given.close()
        assert len(set(outcomes)) == 1, (seed, outcomes)
        counts[outcomes[0]] += 1
    assert min(counts.values()) > 3, counts


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list descriptors")
def test_nothing_stays_open(data: bytes, tmp_path: Path) -> None:
    path, broken = tar(tmp_path / "a.tar", data), tar(tmp_path / "b.tar", data[:9000])
    Model(data).close()
    before = descriptors()
    for given in (data, io.BytesIO(data), ArchiveMember(path)):
        loaded = Model(given)
        assert descriptors() > before
        loaded.close()
        assert descriptors() == before
        loaded = Model(given if isinstance(given, (bytes, ArchiveMember)) else io.BytesIO(data))
        del loaded
        assert descriptors() == before
    for wrong in (data[:9000], io.BytesIO(data[:9000]), ArchiveMember(broken)):
        with pytest.raises(ModelFileError):
            Model(wrong)
        assert descriptors() == before


def test_what_does_not_fit_the_memory_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cffi.core.source.available", lambda: len(data) - 1)
    with pytest.raises(ModelFileError, match="does not fit the memory"):
        Model(data)


@pytest.mark.parametrize("lacking", ["llama_model_load_from_file_ptr", "gguf_init_from_callback"])
def test_an_older_library_gets_a_copy(
    lacking: str, data: bytes, tmp_path: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cffi._native import binding
    from llama_cffi.core import source

    real = binding.has

    class Older:
        def has(self, name: str) -> bool:
            return name != lacking and real(name)

    monkeypatch.setattr(source, "binding", Older())
    with Model(ArchiveMember(archive(tmp_path / "a.zip", data, shift=3))) as loaded:
        np.testing.assert_array_equal(logits(loaded), expected)
        assert loaded.options.load_mode == "auto"


def test_without_memory_files_there_are_temporary_ones(
    data: bytes, tmp_path: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems without /proc and memfd_create."""
    monkeypatch.setattr("llama_cffi.core.memory_file.descriptor_path", lambda descriptor: None)
    monkeypatch.setattr("llama_cffi.core.source.descriptor_path", lambda descriptor: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tar(tmp_path / "a.tar", data)
    kept = set(tmp_path.iterdir())
    with open(write(tmp_path / "m", data), "rb") as file:
        kept.add(tmp_path / "m")
        for given in (data, file, ArchiveMember(path)):
            with Model(given) as loaded:
                assert set(tmp_path.iterdir()) > kept
                np.testing.assert_array_equal(logits(loaded), expected)
            assert set(tmp_path.iterdir()) == kept


def test_a_model_without_a_path_has_no_projector_beside_it(data: bytes) -> None:
    with pytest.raises(ModelNotFoundError, match="has no folder to look in"):
        Llama(data, mmproj="auto", n_ctx=64, n_threads=1)
