"""The keys and the list of tensors of a GGUF file, read in milliseconds, also behind a large vocabulary."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from llama_cffi._native.helpers import ffi, lib

FLOAT32, STRING, ARRAY, FLOAT64 = 6, 8, 9, 12
_BOOL = 7
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", FLOAT32: "f", _BOOL: "?", 10: "Q", 11: "q", FLOAT64: "d"}
_MAX_TEXT = 64 << 10
_MAX_NUMBERS = 4096
_MAX_DIMS = 4
_FIRST, _MOST = 1 << 20, 1 << 30
"""Bytes read at first, and at most."""

_USUAL_ALIGNMENT = 32
"""Bytes, where a file does not say."""

Scalar = bool | int | float | str


class DamagedHeaderError(Exception):
    """The bytes are not a GGUF file, or are truncated; llama.cpp then reports the error."""


@dataclass(frozen=True, slots=True)
class Strings:
    """An array of strings: how many there are, and where they begin."""

    count: int
    at: int


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the file lists it: sizes innermost first, and the number of ``enum ggml_type``."""

    name: str
    shape: tuple[int, ...]
    type: int


class Header:
    """A GGUF file of version 2 or 3, read as far as it is asked for.

    :meth:`values` comes first, :meth:`tensors` after its end. Both raise :class:`DamagedHeaderError`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = b""
        self._at = 0
        magic, version, self._n_tensors, self._n_values = self._unpack("<4sIqq")
        if magic != b"GGUF" or version not in (2, 3):
            raise DamagedHeaderError

    def values(self) -> Iterator[tuple[str, Scalar | list[Scalar] | Strings | None]]:
        """Keys with what they hold; None for a text or a list of numbers that is too long to be of interest."""
        for _ in range(self._n_values):
            key = self._text()
            (kind,) = self._unpack("<I")
            if key is None:
                raise DamagedHeaderError
            if kind == STRING:
                yield key, self._text()
            elif kind != ARRAY:
                yield key, self._numbers(kind, 1)[0]
            else:
                item, count = self._unpack("<Iq")
                if item == STRING:
                    found = Strings(count, self._at)
                    self._skip_strings(count)
                    yield key, found
                elif count <= _MAX_NUMBERS:
                    yield key, self._numbers(item, count)
                else:
                    self._skip(struct.calcsize(self._format(item)) * count)
                    yield key, None

    def lengths(self, strings: Strings) -> Iterator[int]:
        """Yield the number of bytes of each string."""
        at = strings.at
        for _ in range(strings.count):
            (length,) = struct.unpack_from("<Q", self._data, at)
            yield length
            at += 8 + length

    def tensors(self) -> Iterator[TensorEntry]:
        """Yield the entries in file order."""
        for _ in range(self._n_tensors):
            name = self._text()
            (n_dims,) = self._unpack("<I")
            if name is None or n_dims > _MAX_DIMS:
                raise DamagedHeaderError
            *shape, kind, _ = self._unpack(f"<{n_dims}QIQ")
            yield TensorEntry(name, tuple(shape), kind)

    @property
    def at(self) -> int:
        """How many bytes were read of what was asked for."""
        return self._at

    @property
    def data(self) -> bytes:
        """What was read of the file."""
        return self._data

    def _numbers(self, kind: int, count: int) -> list[Scalar]:
        return list(self._unpack(f"<{count}{self._format(kind)}"))

    def _format(self, kind: int) -> str:
        if kind not in _FORMATS:
            raise DamagedHeaderError
        return _FORMATS[kind]

    def _text(self) -> str | None:
        (length,) = self._unpack("<Q")
        if length > _MAX_TEXT:
            self._skip(length)
            return None
        self._need(length)
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def _unpack(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(form)
        self._need(size)
        self._at += size
        return struct.unpack_from(form, self._data, self._at - size)

    def _skip(self, size: int) -> None:
        self._need(size)
        self._at += size

    def _skip_strings(self, count: int) -> None:
        if count < 0:
            raise DamagedHeaderError
        while not (end := lib.lch_skip_strings(ffi.from_buffer(self._data), len(self._data), self._at, count)):
            self._need(len(self._data) - self._at + 1)
        self._at = end

    def _need(self, size: int) -> None:
        """Read on until this many bytes are there."""
        missing = self._at + size - len(self._data)
        if size < 0 or self._at + size > _MOST:
            raise DamagedHeaderError
        if missing > 0:
            more = self._file.read(max(missing, _FIRST, len(self._data)))
            if len(more) < missing:
                raise DamagedHeaderError
            self._data += more


@dataclass(frozen=True, slots=True)
class Front:
    """What comes before the tensors: ``data`` begins with it, ``end`` is where they begin."""

    data: bytes
    end: int
    n_split: int
    """Files of the model."""


def read_front(file: BinaryIO) -> Front | None:
    """Read a file up to its tensors; None for a damaged one. Raises what reading raises."""
    try:
        header = Header(file)
        values = {key: value for key, value in header.values() if key in ("general.alignment", "split.count")}
        for _ in header.tensors():
            pass
    except (DamagedHeaderError, struct.error, OverflowError):
        return None
    alignment, n_split = values.get("general.alignment"), values.get("split.count")
    pad = alignment if isinstance(alignment, int) and alignment > 0 else _USUAL_ALIGNMENT
    end = -(-header.at // pad) * pad
    return Front(header.data, end, n_split if isinstance(n_split, int) else 1)


__all__ = ["DamagedHeaderError", "Front", "Header", "Scalar", "Strings", "TensorEntry", "read_front"]
