"""C strings as Python text."""

from __future__ import annotations

from typing import Any

from llama_cffi._native import ffi


def to_text(pointer: Any) -> str:
    """Return the UTF-8 text at a ``char *``, with replacement characters for what is not valid."""
    value: bytes = ffi.string(pointer)
    return value.decode("utf-8", "replace")


__all__ = ["to_text"]
