"""SharedCores of an encoding and of decodes, where both need the same cores.

An encoding is computed in pieces of a few milliseconds. Between two of them it lets the decodes go first that wait for
their turn; those that come later wait for the end of the next piece.

Without the compiled helpers an encoding is one piece, and nothing waits for it.
"""

from __future__ import annotations

from typing import Any

from llama_cffi._native import helpers
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.helpers import lib


class SharedCores:
    """The turns of one encoder. Pass :attr:`callback` and :attr:`data` to libmtmd; they must outlive its context.

    Nothing waits before :meth:`share`. Each :meth:`begin` is followed by an :meth:`end`, each :meth:`take` by a
    :meth:`give`; what an exception kept from that is waited for 10 seconds.
    """

    __slots__ = ("_flag", "_native", "callback", "data")

    def __init__(self, flag: AbortFlag) -> None:
        self._flag = flag
        self._native: Any = helpers.new("lch_cores")
        self._native.abort = flag.native
        #: ``ggml_backend_sched_eval_callback``: stops what it is asked about when the flag is set.
        self.callback: Any = helpers.address("lch_eval_check")
        #: The callback's user data, a ``void *``.
        self.data: Any = helpers.pointer(self._native)

    def share(self) -> None:
        """Have encodings and decodes take turns from the next encoding on."""
        self._native.shared = 1

    @property
    def shared(self) -> bool:
        """Whether encodings and decodes take turns."""
        return bool(self._native.shared)

    @property
    def n_waiting(self) -> int:
        """How many decodes wait for their turn."""
        return int(self._native.n_waiting)

    def begin(self) -> None:
        """Wait for the turn of an encoding, which begins."""
        lib.lch_cores_begin(self._native)

    def end(self) -> None:
        """End an encoding. Harmless when none has begun."""
        lib.lch_cores_end(self._native)

    def take(self) -> None:
        """Wait for the turn of a decode: until the piece that is being computed has ended."""
        lib.lch_cores_take(self._native)

    def give(self) -> None:
        """End the turn of a decode."""
        lib.lch_cores_give(self._native)


__all__ = ["SharedCores"]
