"""A native object of libmtmd for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llama_cffi._native import guard
from llama_cffi._native.handle import Handle


@contextmanager
def owned(name: str, free: str, make: str, *args: Any) -> Iterator[Any]:
    """Call a function of libmtmd that makes an object; yields its pointer, which ``free`` takes at the end.

    Its owner exists before it, so that nothing is left behind when a signal handler raises in between.
    """
    handle = Handle(name, partial(guard.free, free))
    try:
        yield guard.call_ptr(make, *args, cell=handle.cell)
    finally:
        handle.release()


__all__ = ["owned"]
