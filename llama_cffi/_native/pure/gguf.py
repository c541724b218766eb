"""Steps over strings; see ``helpers/gguf.cpp``."""

from __future__ import annotations

from struct import Struct
from typing import Any

from llama_cffi._native.pure.process import ffi

_LENGTH = Struct("<Q")


def lch_skip_strings(data: Any, size: int, at: int, count: int) -> int:
    unpack, room = _LENGTH.unpack_from, size - _LENGTH.size
    data = ffi.buffer(data, size)
    for _ in range(count):
        if at > room:
            return 0
        at += _LENGTH.size + unpack(data, at)[0]
    return at if at <= size else 0
