"""A descriptor as the ``FILE *`` of the C library, for the functions of llama.h that read from one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_cffi._native import bound
from llama_cffi._native.pure.process import c_function

_fdopen: Any = c_function("void *(*)(int, const char *)", "fdopen")
_fclose: Any = c_function("int(*)(void *)", "fclose")


@contextmanager
def c_file(descriptor: int) -> Iterator[Any]:
    """Yield a ``FILE *`` that reads a descriptor from where it stands; the end of the block closes both.

    Raises ``OSError``.
    """
    file = _fdopen(descriptor, b"rb")
    if not file:
        os.close(descriptor)
        raise OSError(f"the C library could not open descriptor {descriptor}")
    try:
        yield bound.ffi.cast("FILE *", file)
    finally:
        _fclose(file)


__all__ = ["c_file"]
