"""Encodings and decodes that share cores; see ``helpers/cores.cpp``.

No function that every process has answers both of a scheduler's questions. So an encoding is one piece, which nothing
interrupts, and for which no decode waits.
"""

from __future__ import annotations

from typing import Any

from llama_cffi._native.pure import abort
from llama_cffi._native.pure.process import ffi


class lch_cores:
    __slots__ = ("abort", "shared", "stop")

    def __init__(self) -> None:
        self.abort: abort.lch_abort | None = None
        self.shared = 0
        self.stop = ffi.NULL


lch_eval_check: Any = ffi.NULL


def lch_cores_begin(cores: lch_cores) -> None:
    pass


def lch_cores_end(cores: lch_cores) -> None:
    pass


def lch_cores_take(cores: lch_cores) -> None:
    pass


def lch_cores_give(cores: lch_cores) -> None:
    pass
