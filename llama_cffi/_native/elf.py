"""Reading an ELF file without loading it: the first check of a library that is not trusted yet.

Mach-O and PE files are not read here; there the probe alone decides.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"\x7fELF"
_MACHINES = {
    3: "x86",
    8: "mips",
    20: "powerpc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
_TYPES = {1: "an object file", 2: "a program", 3: "a shared library", 4: "a core dump"}
_SHARED = 3
_PT_LOAD, _PT_DYNAMIC, _PT_NOTE = 1, 2, 4
_DT_NEEDED, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 6, 10, 14, 15, 29
_SHT_DYNSYM = 11
_NT_GNU_BUILD_ID = 3
_MAX_ENTRIES = 1 << 20
"""More program headers, dynamic entries or symbols than any library has: the file lies about itself."""


class ElfError(ValueError):
    """The file is not a readable ELF library; the message has the reason."""


@dataclass(frozen=True)
class Elf:
    """The facts of a shared library.

    ``places`` are the bytes of the file at which its own name and those of its dependencies stand; ``symbols`` are the
    dynamic symbols that it defines, if they were asked for.
    """

    path: Path
    bits: int
    machine: str
    soname: str
    needed: tuple[str, ...]
    runpath: tuple[str, ...]
    build_id: str
    places: dict[str, int]
    symbols: frozenset[str]


@dataclass(frozen=True)
class _Layout:
    """How the two classes and byte orders of ELF write the same things."""

    order: str
    header: str
    segment: str
    section: str
    dynamic: str
    symbol: str


def _layout(bits: int, order: str) -> _Layout:
    # The fields of Elf64_Ehdr from e_type on, Elf64_Phdr, Elf64_Shdr, Elf64_Dyn, Elf64_Sym; then those of 32 bits.
    if bits == 64:
        return _Layout(order, "HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", "qQ", "IBBHQQ")
    return _Layout(order, "HHIIIIIHHHHHH", "IIIIIIII", "IIIIIIIIII", "iI", "IIIBBH")


def read(path: Path, *, symbols: bool = False) -> Elf:
    """Read a shared library for this machine; ElfError for anything else, OSError if the file cannot be read."""
    with path.open("rb") as file:
        return _Reader(path, file).read(symbols=symbols)


def this_machine() -> str:
    """Return the name of this computer's architecture, as ELF names map to it here."""
    return {"amd64": "x86_64", "arm64": "aarch64", "i686": "x86", "i386": "x86"}.get(
        platform.machine().lower(), platform.machine().lower()
    )


class _Reader:
    # Reads, no mmap: a file that shrinks meanwhile ends a process that has it mapped.
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.length = file.seek(0, 2)
        self.segments: list[tuple[int, int, int, int]] = []  # type, offset, address, size in the file

    def read(self, *, symbols: bool) -> Elf:
        self._identify()
        (kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, _) = self._unpack(
            self.layout.header, 16, "its header"
        )
        name = _MACHINES.get(machine, f"machine {machine}")
        if name != this_machine():
            raise ElfError(f"it is a library for {name}, and this computer is {this_machine()}")
        if self.bits != struct.calcsize("P") * 8:
            raise ElfError(f"it has {self.bits} bits, and this Python {struct.calcsize('P') * 8}")
        if kind != _SHARED:
            raise ElfError(f"it is {_TYPES.get(kind, 'something else')}, not a shared library")
        self._read_segments(phoff, phentsize, phnum)
        entries = list(self._dynamic())
        first = dict(reversed(entries))  # the first entry of a tag wins
        if _DT_STRTAB not in first:
            raise ElfError("it has no string table")
        table = self._offset(first[_DT_STRTAB])
        names = self._bytes(table, first.get(_DT_STRSZ, 0), "its table of names")
        runpath = _text(names, first[_DT_RUNPATH] if _DT_RUNPATH in first else first.get(_DT_RPATH))
        return Elf(
            self.path,
            self.bits,
            name,
            _text(names, first.get(_DT_SONAME)),
            tuple(_text(names, value) for tag, value in entries if tag == _DT_NEEDED),
            tuple(part for part in runpath.split(":") if part),
            self._build_id(),
            {_text(names, value): table + value for tag, value in entries if tag in (_DT_SONAME, _DT_NEEDED)},
            frozenset(self._symbols(shoff, shentsize, shnum)) if symbols else frozenset(),
        )

    def _identify(self) -> None:
        self.file.seek(0)
        start = self.file.read(64)
        if not start.startswith(_MAGIC):
            raise ElfError(_not_elf(start))
        bits, order = ({1: 32, 2: 64}.get(start[4]), {1: "<", 2: ">"}.get(start[5])) if len(start) > 15 else (64, "<")
        if bits is None or order is None:
            raise ElfError("its header is not valid")
        self.bits = bits
        self.layout = _layout(bits, order)

    def _bytes(self, place: int, size: int, what: str) -> bytes:
        if place + size > self.length:
            raise ElfError(f"it is truncated: {what} should end at byte {place + size} of {self.length}")
        self.file.seek(place)
        return self.file.read(size)

    def _unpack(self, fields: str, place: int, what: str) -> tuple[int, ...]:
        form = struct.Struct(self.layout.order + fields)
        data = self._bytes(place, form.size, what)
        if len(data) != form.size:
            raise ElfError("it is changing while it is read")
        return form.unpack(data)

    def _read_segments(self, offset: int, size: int, count: int) -> None:
        for number in range(count):
            found = self._unpack(self.layout.segment, offset + number * size, "a program header")
            # The flags stand second in 64 bits and seventh in 32.
            kind, start, address, in_file = (
                (found[0], found[2], found[3], found[5])
                if self.bits == 64
                else (found[0], found[1], found[2], found[4])
            )
            if kind == _PT_LOAD and start + in_file > self.length:
                raise ElfError(f"it is truncated: it should have {start + in_file} bytes or more, not {self.length}")
            self.segments.append((kind, start, address, in_file))

    def _offset(self, address: int) -> int:
        for kind, start, base, size in self.segments:
            if kind == _PT_LOAD and base <= address < base + size:
                return start + address - base
        raise ElfError(f"address {address:#x} is outside the segments of the file")

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        place = next((start for kind, start, _, _ in self.segments if kind == _PT_DYNAMIC), None)
        if place is None:
            raise ElfError("it has no dynamic section: nothing can be loaded from it")
        step = struct.calcsize(self.layout.order + self.layout.dynamic)
        for number in range(_MAX_ENTRIES):
            tag, value = self._unpack(self.layout.dynamic, place + number * step, "the dynamic section")
            if tag == 0:
                return
            yield tag, value
        raise ElfError("its dynamic section has no end")

    def _symbols(self, offset: int, size: int, count: int) -> Iterator[str]:
        """Defined dynamic symbols, by the section headers; a file without these yields none."""
        sections = [
            self._unpack(self.layout.section, offset + number * size, "a section header") for number in range(count)
        ]
        form = struct.Struct(self.layout.order + self.layout.symbol)
        defined_in = 3 if self.bits == 64 else 5
        for section in sections:
            if section[1] != _SHT_DYNSYM or section[6] >= count:
                continue
            table = sections[section[6]]
            names = self._bytes(table[4], table[5], "the names of its symbols")
            data = self._bytes(section[4], section[5] // form.size * form.size, "its symbols")
            yield from (_text(names, found[0]) for found in form.iter_unpack(data) if found[defined_in] and found[0])

    def _build_id(self) -> str:
        for kind, start, _, size in self.segments:
            if kind != _PT_NOTE:
                continue
            place = start
            while place + 12 <= start + size:
                length, content, note = self._unpack("III", place, "a note")
                at = place + 12 + (length + 3) // 4 * 4
                if note == _NT_GNU_BUILD_ID and self._bytes(place + 12, 4, "a note") == b"GNU\0":
                    return self._bytes(at, min(content, 64), "its build id").hex()
                place = at + (content + 3) // 4 * 4
        return ""


def _text(names: bytes, place: int | None) -> str:
    if place is None:
        return ""
    end = names.find(b"\0", place)
    if end < 0:
        raise ElfError(f"its name at place {place} has no end")
    return names[place:end].decode("utf-8", "replace")


def _not_elf(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"!<arch>\n"):
        return "it is a static library; a shared one is needed"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself"
    if start[:4] in (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"):
        return "it is a macOS library"
    if start.startswith(b"MZ"):
        return "it is a Windows library"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"it is text, not a library: {start[:40].decode()!r}"
    return "it is not an ELF file"


__all__ = ["Elf", "ElfError", "read", "this_machine"]
