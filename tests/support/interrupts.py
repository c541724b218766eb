"""Real signals at every place where Python can deliver one inside a call.

Python looks for signals at certain bytecodes only. A trace function counts those of a call, and before the chosen one
sets the flag that a signal handler is due; the interpreter then runs the handler where it would run it for Ctrl-C.
"""

from __future__ import annotations

import _thread
import dis
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class _Signal(int):
    """Attribute access sends it: no call, after which the handler would run in the trace function itself."""

    send = property(_thread.interrupt_main)


_SIGINT = _Signal(signal.SIGINT)


def _checks(frame: FrameType) -> bool:
    """Whether Python looks for signals at the next bytecode. Before 3.11 it did at nearly every one."""
    if sys.version_info < (3, 11):
        return True
    name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    return name.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))


class Interrupted(BaseException):
    """What the signal handler raises."""


def interrupt_at(n: int, call: Callable[[], object]) -> tuple[bool, object]:
    """Run a call with a signal at the ``n``-th place where Python looks for one; the handler raises.

    Returns whether the call had so many, and what it returned or raised.
    """
    count = 0
    before = signal.signal(signal.SIGINT, _raise)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode" and _checks(frame):
            count += 1
            if count == n:
                sys.settrace(None)
                _SIGINT.send  # noqa: B018
        return trace

    result: object = None
    try:
        try:
            sys.settrace(trace)
            result = call()
        finally:
            sys.settrace(None)
        for _ in range(2):
            pass  # a handler that is still due runs here
    except BaseException as error:
        result = error
    signal.signal(signal.SIGINT, before)
    return count >= n, result


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted
