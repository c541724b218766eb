"""Where the bytes of a medium come from: a file, a ``data:`` URL, or memory."""

from __future__ import annotations

import binascii
import os
import re
import stat
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

from llama_cffi._util.arguments import check_path
from llama_cffi._util.shown import shown
from llama_cffi.errors import MediaError

_DATA_URL = re.compile(r"data:[^,]{0,256}?(;base64)?,", re.I)
_SCHEME = re.compile(r"(https?|ftp|file|s3|gs):", re.I)


def read_source(source: object, limit: int) -> bytes:
    """Return the bytes that a path, a ``data:`` URL or a bytes-like object stands for.

    Raises :class:`MediaError` for more than ``limit`` bytes, for a file that cannot be read and for other URLs, and
    TypeError for anything else.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_length(source.nbytes if isinstance(source, memoryview) else len(source), limit)
        return bytes(source)
    if isinstance(source, str):
        if source[:5].lower() == "data:":
            return _from_data_url(source, limit)
        if _SCHEME.match(source):
            raise MediaError(f"{shown(source)} is a URL, and nothing is fetched here: give a path or the bytes")
    elif not isinstance(source, os.PathLike):
        raise TypeError(f"expected a path, a data: URL or bytes, got {shown(source)}")
    return _from_file(check_path("source", source), limit)


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put the path of a file before what is wrong with it."""
    try:
        yield
    except MediaError as error:
        if isinstance(source, os.PathLike) or (isinstance(source, str) and source[:5].lower() != "data:"):
            path = os.fsdecode(source)
            if path not in error.message:
                error.message = f"{path}: {error.message}"
        raise


def _from_file(path: str | os.PathLike[str], limit: int) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise MediaError(f"{os.fspath(path)} is not a file")
            _check_length(facts.st_size, limit)
            data = file.read(limit + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise MediaError(f"no such file: {os.fspath(path)}") from error
        raise MediaError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    _check_length(len(data), limit)
    return data


def _from_data_url(url: str, limit: int) -> bytes:
    found = _DATA_URL.match(url)
    if found is None:
        raise MediaError(f"{shown(url)} is not a data: URL: it needs a comma before the data")
    text = url[found.end() :]
    # Before anything is decoded: four characters make three bytes.
    _check_length(len(text) // 4 * 3 if found[1] else len(text) // 3, limit)
    if not found[1]:
        data = unquote_to_bytes(text)
        _check_length(len(data), limit)
        return data
    try:
        # Text that was broken into lines, or written with %2B for +, is as common as plain text.
        plain = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
        plain = plain.translate(None, b" \t\r\n")
        return b64decode(plain + b"=" * (-len(plain) % 4) if not plain.endswith(b"=") else plain, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MediaError(f"the data: URL holds no valid Base64: {error}") from error


def _check_length(n: int, limit: int) -> None:
    if n > limit:
        raise MediaError(f"{n:,} bytes are too many for a medium; allowed are {limit:,}")
    if n == 0:
        raise MediaError("there is no data: the file or the bytes are empty")


__all__ = ["naming", "read_source"]
