"""What every process has: cffi's own types, and a few functions of the C library."""

from __future__ import annotations

import sys
from typing import Any

import _cffi_backend

ffi: Any = _cffi_backend.FFI()

_process: Any = _cffi_backend.load_library(None, 0)


def c_function(signature: str, name: str) -> Any:
    """Return a function of the C library; ``AttributeError`` where it has none of this name."""
    return _process.load_function(ffi.typeof(signature), name)


#: For bytes that begin with NUL or 1 and go on with NUL: a flag as ``bool (*)(void *)``.
strlen: Any = c_function("size_t(*)(const char *)", "strlen")

#: Does nothing with its first argument, an int, and does not look at others.
nothing: Any = c_function("int(*)(int)", "abs")


def float32(x: float) -> float:
    """Return the nearest float, infinite where it is too large."""
    return float(ffi.cast("float", x))


def thread_stack() -> int:
    """Return bytes of stack that this thread was made with; 0 where the system does not say."""
    try:
        if sys.platform == "darwin":
            itself = c_function("void *(*)(void)", "pthread_self")()
            return int(c_function("size_t(*)(void *)", "pthread_get_stacksize_np")(itself))
        attributes = ffi.new("long long[64]")  # larger than the pthread_attr_t of any C library
        itself = c_function("unsigned long(*)(void)", "pthread_self")()
        if c_function("int(*)(unsigned long, void *)", "pthread_getattr_np")(itself, attributes):
            return 0
        size = ffi.new("size_t *")
        c_function("int(*)(void *, size_t *)", "pthread_attr_getstacksize")(attributes, size)
        c_function("int(*)(void *)", "pthread_attr_destroy")(attributes)
    except (AttributeError, OSError):
        return 0
    return int(size[0])
