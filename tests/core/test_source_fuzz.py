"""Damaged and odd archives: what is read in place is what Python's own modules read, or an error with a reason."""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ArchiveMember, GGUFFile, Model, ModelOptions
from llama_cffi.core.opening import local
from llama_cffi.core.source import Source, open_source
from llama_cffi.errors import LlamaCffiError
from tests.support.random_model import write_random_model

NAMES = ("m.gguf", "folder/m.gguf", "../m.gguf", "/m.gguf", "é.gguf", "a" * 150 + ".gguf", "x/" * 60 + "m.gguf", "m")
SECONDS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf").read_bytes()


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """No case takes longer than :data:`SECONDS`."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("it takes too long")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# -- archives


def zipped(draw: random.Random, data: bytes) -> bytes:
    file = io.BytesIO(draw.randbytes(draw.choice([0, 0, 7, 512])))
    file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file, "w") as archive:
        for name in draw.sample(NAMES, draw.randrange(1, 4)):
            method = draw.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED])
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=draw.random() < 0.3) as member:
                member.write(content(draw, data))
        archive.comment = draw.randbytes(draw.choice([0, 0, 30]))
    return file.getvalue()


def tarred(draw: random.Random, data: bytes) -> bytes:
    file = io.BytesIO()
    form = draw.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in draw.sample(NAMES, draw.randrange(1, 4)):
            body = content(draw, data)
            info = tarfile.TarInfo(name)
            info.size = len(body)
            if form == tarfile.PAX_FORMAT and draw.random() < 0.5:
                info.pax_headers = {"comment": "x" * draw.randrange(1000), "path": name}
            with suppress(ValueError):  # a name that is too long for the format
                archive.addfile(info, io.BytesIO(body))
        if draw.random() < 0.3:
            link = tarfile.TarInfo("link.gguf")
            link.type, link.linkname = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), "m.gguf"
            archive.addfile(link)
        if draw.random() < 0.2:
            inner = zipped(draw, data)
            info = tarfile.TarInfo("last.zip")
            info.size = len(inner)
            archive.addfile(info, io.BytesIO(inner))
    return file.getvalue()


def sparse(draw: random.Random, data: bytes) -> bytes:
    """A member of GNU's old sparse kind: two pieces of data, with a hole between them."""
    header = bytearray(tarfile.TarInfo("m.gguf").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"%011o\0" % 1024
    pieces = b"".join(b"%011o\0%011o\0" % pair for pair in ((0, 512), (4096, 512)))
    header[386 : 386 + len(pieces)] = pieces
    header[483:495] = b"%011o\0" % 4608
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[:1024] + bytes(1024)


def content(draw: random.Random, data: bytes) -> bytes:
    return draw.choice([data, data, data[: draw.randrange(len(data))], b"", b"GGUF", draw.randbytes(50)])


def damaged(draw: random.Random, archive: bytes) -> bytes:
    found = bytearray(archive)
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        if not found:
            break
        near = draw.choice([0, max(0, len(found) - 300), draw.randrange(len(found))])
        at = min(len(found) - 1, near + draw.randrange(300))
        match draw.randrange(6):
            case 0:
                del found[at:]
            case 1:
                del found[at : at + draw.randrange(1, 600)]
            case 2:
                found[at:at] = draw.randbytes(draw.randrange(1, 600))
            case 3:
                found[at] = draw.choice([0, 1, 0x80, 0xFF, ord("7"), ord("-")])
            case 4:
                found[at : at + 8] = struct.pack("<q", draw.choice([-1, 0, 2**31, 2**62, -(2**62), len(found)]))
            case 5:
                found[at : at + 12] = draw.choice([b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0"])
    return bytes(found)


def made(draw: random.Random, data: bytes) -> bytes:
    kind = draw.choice([zipped, zipped, tarred, tarred, sparse])
    archive = damaged(draw, kind(draw, data))
    return gzip.compress(archive, 1) if draw.random() < 0.05 else archive


# -- what Python reads


def in_zip(path: Path, name: str) -> bytes | None:
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        member._expected_crc = None  # type: ignore[attr-defined]  # what stands there is compared, damaged or not
        return member.read()


def in_tar(path: Path, name: str) -> bytes | None:
    with tarfile.open(path, "r:") as archive:
        member = archive.extractfile(name)
        return None if member is None else member.read()


def read_by_python(path: Path, name: Any) -> set[bytes]:
    found = set()
    for read in (in_zip, in_tar):
        with suppress(Exception):
            body = read(path, name)
            if body is not None:
                found.add(body)
    return found


def check_open(given: Any, expected: Callable[[Source], set[bytes] | None], *allowed: type[Exception]) -> bool:
    """Whether something was opened, whose content is one of those expected if any are."""
    refusals: tuple[type[Exception], ...] = (LlamaCffiError, *allowed)
    try:
        source = open_source(given)
    except refusals:
        return False
    assert source is not None
    try:
        with source.open() as file:
            found = file.read()
        wanted = expected(source)
        assert not wanted or found in wanted
        assert len(found) == source.size or not wanted
        with suppress(LlamaCffiError):
            GGUFFile(source)
            with Model(source, ModelOptions(vocab_only=True)) as model:
                assert model.metadata
    finally:
        source.close()
    return True


def check_file(path: Path) -> int:
    """How many ways to a model lead into an archive."""
    found = 0
    for name in (None, *NAMES, "link.gguf"):
        member = ArchiveMember(path, name)
        found += check_open(member, lambda source: read_by_python(path, source.member and source.member.name))
    way = local(str(path / "m.gguf"))
    if isinstance(way, ArchiveMember):
        found += check_open(way, lambda source: read_by_python(path, "m.gguf"))
    for opened in (opened_in_zip, opened_in_tar):
        with opened(path) as members:
            for member, body in members:
                # Where it is copied, its own errors come up.
                found += check_open(member, partial(given_back, body), tarfile.TarError, zipfile.BadZipFile, EOFError)
    return found


def given_back(body: set[bytes] | None, source: Source) -> set[bytes] | None:
    return body


@contextmanager
def opened_in_zip(path: Path) -> Iterator[list[tuple[Any, set[bytes] | None]]]:
    with ExitStack() as stack:
        members: list[tuple[Any, set[bytes] | None]] = []
        with suppress(Exception):
            archive = stack.enter_context(zipfile.ZipFile(path))
            for name in archive.namelist():
                with suppress(Exception):
                    if archive.getinfo(name).compress_type == zipfile.ZIP_STORED:
                        body = in_zip(path, name)
                        members.append((stack.enter_context(archive.open(name)), None if body is None else {body}))
        yield members


@contextmanager
def opened_in_tar(path: Path) -> Iterator[list[tuple[Any, set[bytes] | None]]]:
    with ExitStack() as stack:
        members: list[tuple[Any, set[bytes] | None]] = []
        with suppress(Exception):
            archive = stack.enter_context(tarfile.open(path, "r:"))
            for info in archive:
                if info.size < 0:
                    break
                with suppress(Exception):
                    member = archive.extractfile(info)
                    if member is not None:
                        stack.enter_context(member)
                        members.append((member, None))
        yield members


def check(seed: int, data: bytes, path: Path) -> int:
    path.write_bytes(made(random.Random(f"archive {seed}"), data))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return check_file(path)
    except BaseException:
        print(f"seed {seed}")
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damaged_archives(data: bytes, tmp_path: Path) -> None:
    found = [check(seed, data, tmp_path / "archive") for seed in range(25)]
    assert 0 < sum(map(bool, found)) < len(found)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_many_damaged_archives(data: bytes, tmp_path: Path) -> None:
    end = time.monotonic() + 60
    first = seed = random.SystemRandom().randrange(10**9)
    n_found = 0
    while time.monotonic() < end:
        n_found += bool(check(seed, data, tmp_path / "archive"))
        seed += 1
    print(f"from seed {first}: {seed - first} archives, a model in {n_found} of them")
