"""What libmtmd computes, in turns with the contexts on the same CPUs.

It computes in pieces of a few milliseconds, each in the turns of those contexts. Between two pieces the decodes go
first that wait by then, and a signal, a deadline or another thread can stop it.

Without the compiled helpers it is one piece, and nothing waits for it.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from llama_cffi._native import guard, helpers
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.helpers import lib
from llama_cffi._native.turn import NESTED, Turn, refuse_nested

_FAILED = int(lib.LCH_FAILED)


class EncodingTurns:
    """The turns that one projector takes. Pass :attr:`callback` and :attr:`data` to libmtmd; they must outlive its
    context."""

    __slots__ = ("_flag", "_native", "_turns", "callback", "data")

    def __init__(self, flag: AbortFlag) -> None:
        self._flag = flag
        self._native: Any = helpers.new("lch_encoding")
        self._native.abort = flag.native
        self._turns: tuple[weakref.ref[Turn], ...] = ()
        #: ``ggml_backend_sched_eval_callback``: pauses behind each piece, and stops when the flag is set.
        self.callback: Any = helpers.address("lch_eval_check")
        #: The callback's user data, a ``void *``.
        self.data: Any = helpers.pointer(self._native)

    def add(self, turn: Turn) -> None:
        """Take this turn, too, from the next computation on, as long as a context computes in it."""
        self._turns = (*(one for one in self._turns if one() not in (None, turn)), weakref.ref(turn))

    @property
    def found(self) -> list[Turn]:
        """The turns that the next computation takes, in the order in which all take them."""
        pid, turns = os.getpid(), (one() for one in self._turns)
        # A forked child has turns of its own: it may have got those of its parent taken.
        return sorted((turn for turn in turns if turn is not None and turn.pid == pid), key=id)

    def compute(self, name: str, *args: Any, stack: int = 0) -> int:
        """Return the result of a function of libmtmd that computes, called as by :func:`guard.call_int`.

        With ``stack`` as by :func:`guard.call_int_deep`. What the flag stopped before it began gives
        :data:`~.turn.STOPPED`. Raises :class:`BusyError` in the middle of a decode of this thread that has one of the
        turns. One thread at a time.
        """
        turns, native = self.found, self._native
        array = helpers.turns([turn.native for turn in turns])
        native.turns, native.n_turns = array, len(turns)
        result = lib.lch_encode(native, stack, *guard.words(name, args))
        if native.entry == NESTED:
            refuse_nested()
        return int(result) if result != _FAILED else guard.fail(name)


__all__ = ["EncodingTurns"]
