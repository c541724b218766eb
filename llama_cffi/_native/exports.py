"""Functions that a loaded library exports beside those of its header."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import _cffi_backend

from llama_cffi._native import bound


@cache
def address(name: str) -> int | None:
    """Return the address of a function that libllama exports; None if there is none of that name."""
    from llama_cffi._native.library import opened_file

    opened: Any = _cffi_backend.load_library(os.fspath(opened_file()), os.RTLD_NOW | getattr(os, "RTLD_NODELETE", 0))
    try:
        found = opened.load_function(_cffi_backend.FFI().typeof("void(*)(void)"), name)
    except AttributeError:
        return None
    return int(bound.ffi.cast("uintptr_t", found))


__all__ = ["address"]
