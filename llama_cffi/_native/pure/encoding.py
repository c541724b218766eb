"""What libmtmd computes beside decodes; see ``helpers/encoding.cpp``.

No function that every process has answers both of a scheduler's questions. So an encoding is one piece, which nothing
interrupts. It takes no turn, because decodes would wait for all of it; but they let their threads sleep after each
computation while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from llama_cffi._native.pure import abort, deep, guard
from llama_cffi._native.pure.process import ffi
from llama_cffi._native.pure.turn import LCH_TURN_TAKEN, lch_turn, pause_between


class lch_encoding:
    """As in ``helpers.h``. ``stop`` is what libmtmd gets for the callback."""

    __slots__ = ("abort", "entry", "n_turns", "stop", "turns")

    def __init__(self) -> None:
        self.abort: abort.lch_abort | None = None
        self.turns: Sequence[lch_turn] = ()
        self.n_turns = 0
        self.entry = LCH_TURN_TAKEN
        self.stop = ffi.NULL


lch_eval_check: Any = ffi.NULL


def lch_encode(encoding: lch_encoding, stack: int, fn: Any, result: int, *words: int) -> int:
    begun: list[lch_turn] = []
    try:
        for turn in encoding.turns:
            begun.append(turn)
            turn.encodings.append(None)
            pause_between(turn)
        return deep.lch_call_deep(stack, fn, result, *words) if stack else guard.lch_call(fn, result, *words)
    finally:
        for turn in begun:
            with suppress(IndexError):  # a signal handler has raised before it was there
                turn.encodings.pop()
