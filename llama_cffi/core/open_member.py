"""Where the bytes of a member are that was opened with an archive of Python's ``zipfile`` or ``tarfile``."""

from __future__ import annotations

import io
import os
import stat
import sys
from contextlib import suppress
from typing import Any

from llama_cffi.core.memory_file import descriptor_path

_STORED = 0


def real_file(file: Any) -> str | None:
    """Return a path that opens the regular file of a binary file object anew; None where there is no such file."""
    raw = getattr(file, "raw", file)
    if type(raw) is not io.FileIO or not isinstance(file, (io.FileIO, io.BufferedReader, io.BufferedRandom)):
        return None
    if file.writable():
        file.flush()
    descriptor = file.fileno()
    return descriptor_path(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def member_place(file: Any) -> tuple[Any, int, int] | None:
    """Return the file object of the archive whose open member this is, where in it the member goes on from its
    position, and how many bytes are left of it.

    None for everything else, and where the bytes do not stand there as they are: compressed, encrypted or sparse
    members. The modules do not document this; what does not look as expected is None, too.
    """
    with suppress(AttributeError, TypeError, ValueError, OSError):
        for module, kind, place in (("zipfile", "ZipExtFile", _in_zip), ("tarfile", "ExFileObject", _in_tar)):
            # The module was imported by whatever has opened the archive.
            if type(file) is getattr(sys.modules.get(module), kind, None):
                return place(file)
    return None


def _in_zip(file: Any) -> tuple[Any, int, int] | None:
    start, size = file._orig_compress_start, file._orig_file_size
    plain = file._compress_type == _STORED and file._decrypter is None and size == file._orig_compress_size
    at = file.tell()
    return (file._fileobj._file, start + at, size - at) if plain and 0 <= at <= size else None


def _in_tar(file: Any) -> tuple[Any, int, int] | None:
    inner = file.raw
    size, start, at = inner.size, inner.offset, file.tell()
    plain = [tuple(one) for one in inner.map] == [(True, 0, size, start)]
    return (inner.fileobj, start + at, size - at) if plain and 0 <= at <= size else None


__all__ = ["member_place", "real_file"]
