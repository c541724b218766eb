"""A GGUF file with the metadata that another one has and it lacks."""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llama_cffi.core.gguf_header import DamagedHeaderError, Header
from llama_cffi.errors import ModelFileError

_FRONT = struct.Struct("<4sIqq")
_ALIGNMENT = 32
_OF_THE_FILE = ("general.alignment", "split.no", "split.count", "split.tensors.count")
"""What is true of one file only."""
_BLOCK = 1 << 22


@dataclass(frozen=True)
class _Pieces:
    """The metadata of a file by key, and its list of tensors, as bytes; ``data`` is where its tensors begin."""

    values: dict[str, bytes]
    n_tensors: int
    tensors: bytes
    data: int


def write_merged(target: Path, tensors: str | os.PathLike[str], metadata: str | os.PathLike[str]) -> None:
    """Write the tensors and the metadata of one file, and behind it the metadata that only another one has.

    ``tensors`` must have the usual alignment. Raises :class:`ModelFileError` for a damaged file, and ``OSError``.
    """
    with open(tensors, "rb") as file, open(metadata, "rb") as more, open(target, "wb") as out:
        own, other = _pieces(tensors, file), _pieces(metadata, more)
        values = own.values | {
            key: value for key, value in other.values.items() if key not in own.values and key not in _OF_THE_FILE
        }
        out.write(_FRONT.pack(b"GGUF", 3, own.n_tensors, len(values)))
        for value in values.values():
            out.write(value)
        out.write(own.tensors)
        out.write(bytes(-out.tell() % _ALIGNMENT))
        file.seek(own.data)
        shutil.copyfileobj(file, out, _BLOCK)


def _pieces(path: str | os.PathLike[str], file: BinaryIO) -> _Pieces:
    try:
        header = Header(file)
        values, start = {}, header.at
        for key, _ in header.values():
            values[key] = header.data[start : header.at]
            start = header.at
        n_tensors = sum(1 for _ in header.tensors())
        return _Pieces(values, n_tensors, header.data[start : header.at], -(-header.at // _ALIGNMENT) * _ALIGNMENT)
    except (DamagedHeaderError, struct.error, OverflowError) as error:
        raise ModelFileError(f"{os.fspath(path)} is a damaged GGUF file") from error


__all__ = ["write_merged"]
