"""Files: written so that an incomplete one is never visible, and what tells whether one has changed."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part"
"""How the name of a file ends that is still being written, or was when its process ended."""


_BLOCK = 1 << 20


@contextmanager
def replacement(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Yield the path of an empty file in the same folder, which takes the place of ``path`` when the block ends.

    When the block raises, the new file goes and what was at ``path`` is still there. ``sync`` waits until the bytes are
    on the disk, so that not even a power cut leaves a file without its content. Raises ``OSError``.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:48]}.", suffix=PART, dir=target.parent)
    except OSError as error:
        error.filename = str(target)
        raise
    os.close(handle)
    part = Path(name)
    try:
        yield part
        if sync:
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is not None and os.fspath(error.filename) == name:
            # What is meant is the file, and not the one that stands for it.
            error.filename, error.filename2 = str(target), None
        raise


def identity(path: str | os.PathLike[str]) -> list[int]:
    """What changes when a file is written or another takes its name: device, inode, size and times. Raises OSError."""
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file from its beginning to its end, in hexadecimal. Raises ``OSError``."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def start_writeback(file: BinaryIO | io.FileIO, start: int, length: int) -> None:
    """Let the disk begin with bytes that were just written, instead of waiting for the ``fsync`` at the end.

    Nothing depends on it; systems without ``posix_fadvise`` do as before.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            # "Not needed soon" is how Linux is told: pages that are not on the disk yet are written, and kept until
            # they are.
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)


__all__ = ["PART", "identity", "replacement", "sha256_of", "start_writeback"]
