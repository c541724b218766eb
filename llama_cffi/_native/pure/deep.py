"""Calls on a stack that is large enough for them; see ``helpers/deep.cpp``."""

from __future__ import annotations

import sys
import threading
from typing import Any

from llama_cffi._native.pure import guard, log
from llama_cffi._native.pure.process import thread_stack
from llama_cffi._util.worker import with_stack

_MOST = 8 << 20
"""Of a stack without a limit: how far it can grow is not known."""


class _Here(threading.local):
    """What this thread surely has left: Python does not say how much of its stack is in use, and rarely uses half."""

    def __init__(self) -> None:
        self.bytes_left = min(thread_stack(), _MOST) // 2


_here = _Here()


def lch_call_deep(stack: int, fn: Any, result: int, *words: int) -> int:
    if stack <= _here.bytes_left or sys.platform == "win32":
        return guard.lch_call(fn, result, *words)
    thread, cell = log.thread_number(), guard.kept()

    def call() -> int:
        log.log_as(thread)
        if cell is None:
            return guard.lch_call(fn, result, *words)
        guard.keep(cell, guard.lch_call, fn, result, *words)
        return 0

    log.call_begins()
    try:
        return with_stack(stack, call)
    except MemoryError as error:
        return guard.fail(str(error))
