"""What every process has: cffi's own types, and a few functions of the C library."""

from __future__ import annotations

from typing import Any

import _cffi_backend

ffi: Any = _cffi_backend.FFI()

_process: Any = _cffi_backend.load_library(None, 0)


def _c(signature: str, name: str) -> Any:
    return _process.load_function(ffi.typeof(signature), name)


#: For bytes that begin with NUL or 1 and go on with NUL: a flag as ``bool (*)(void *)``.
strlen: Any = _c("size_t(*)(const char *)", "strlen")

#: Does nothing with its first argument, an int, and does not look at others.
nothing: Any = _c("int(*)(int)", "abs")


def float32(x: float) -> float:
    """The nearest float, infinite where it is too large."""
    return float(ffi.cast("float", x))
