"""Reading ELF files: facts of real ones, and a reason for everything else."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi._native import elf
from tests.support.stubs import compile_library, needs_compiler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF is what Linux has")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elf")
    source = "int visible(void) { return 1; } static int hidden(void) { return 2; } int undefined(void); " + (
        "int caller(void) { return undefined() + hidden(); }"
    )
    (folder / "one.c").write_text(source)
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "one.c",
        "-o",
        "libone.so.3",
        "-Wl,-soname,libone.so.3",
        "-Wl,--build-id=0xabcd1234",
    ]
    subprocess.run([*command, "-Wl,-rpath,$ORIGIN:/opt/x", "-lm", "-Wl,--no-as-needed", "-ldl"], cwd=folder, check=True)
    return folder / "libone.so.3"


@needs_compiler
def test_the_facts_of_a_library(library: Path) -> None:
    found = elf.read(library, symbols=True)
    assert found.soname == "libone.so.3"
    assert "libc.so.6" in found.needed
    assert found.runpath == ("$ORIGIN", "/opt/x")
    assert found.build_id == "abcd1234"
    assert found.machine == elf.this_machine()
    assert {"visible", "caller"} <= found.symbols
    assert not {"hidden", "undefined"} & found.symbols
    assert elf.read(library).symbols == frozenset()


@needs_compiler
def test_names_stand_where_the_file_says(library: Path) -> None:
    data = library.read_bytes()
    for name, place in elf.read(library).places.items():
        assert data[place : place + len(name) + 1] == name.encode() + b"\0"


@needs_compiler
def test_every_cut_is_noticed_or_harmless(library: Path, tmp_path: Path) -> None:
    data = library.read_bytes()
    cut = tmp_path / "cut.so"
    whole = max(start + size for kind, start, size in loaded(data) if kind == 1)
    for length in range(0, len(data), 97):
        cut.write_bytes(data[:length])
        if length < whole:
            with pytest.raises(elf.ElfError, match=r"truncated|empty"):
                elf.read(cut)


@needs_compiler
def test_damage_never_escapes_as_another_error(library: Path, tmp_path: Path) -> None:
    data = library.read_bytes()
    broken = tmp_path / "broken.so"
    for place in (*range(4, 64), *range(64, len(data), 61)):
        for value in (0, 0x7F, 0xFF):
            broken.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            with contextlib.suppress(elf.ElfError):
                elf.read(broken, symbols=True)


def loaded(data: bytes) -> list[tuple[int, int, int]]:
    (phoff,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    found = [struct.unpack_from("<IIQQQQ", data, phoff + number * size) for number in range(count)]
    return [(kind, offset, in_file) for kind, _, offset, _, _, in_file in found]


def header(*, bits: int = 64, order: str = "<", machine: int = 62, kind: int = 3) -> bytes:
    """An ELF header without anything behind it."""
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    form = "HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"
    return ident + struct.pack(order + form, kind, machine, 1, 0, 0, 0, 0, 64, 56, 0, 64, 0, 0)


OTHER = {"x86_64": (183, "aarch64"), "aarch64": (62, "x86_64")}
MACHINE, OTHER_NAME = OTHER.get(elf.this_machine(), (62, "x86_64"))
OWN = {"x86_64": 62, "aarch64": 183}.get(elf.this_machine(), 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"#!/bin/sh\necho no\n", "it is text, not a library: '#!/bin/sh"),
        (b"!<arch>\nrest", "static library"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"MZ\x90\0", "Windows library"),
        (b"\xcf\xfa\xed\xfe\x07\0", "macOS library"),
        (b"\0\1\2\3", "not an ELF file"),
        (b"\x7fELF", "truncated"),
        (b"\x7fELF" + bytes(60), "its header is not valid"),
        (header(machine=MACHINE), f"for {OTHER_NAME}, and this computer is {elf.this_machine()}"),
        (header(machine=4711), "for machine 4711"),
        (header(machine=OWN, kind=2), "a program, not a shared library"),
        (header(machine=OWN, kind=1), "an object file, not"),
        (header(machine=OWN), "no dynamic section"),
        (header(machine=OWN, bits=32), "it has 32 bits, and this Python 64"),
        (header(machine=8, order=">"), "for mips"),
    ],
)
def test_what_is_no_library_for_this_machine(data: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "lib.so"
    file.write_bytes(data)
    with pytest.raises(elf.ElfError) as caught:
        elf.read(file)
    assert reason in str(caught.value)


@needs_compiler
def test_a_library_without_names_for_its_sections(tmp_path: Path) -> None:
    library = compile_library(tmp_path / "bare.so", "int one(void) { return 1; }")
    data = bytearray(library.read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    library.write_bytes(data)
    assert elf.read(library, symbols=True).symbols == frozenset()
