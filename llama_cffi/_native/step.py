"""One decode step of one sequence, token in and next token out, as a single native call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from llama_cffi._native import bound, guard, helpers
from llama_cffi._native.helpers import ffi, lib
from llama_cffi._native.selector import raise_selection_error
from llama_cffi._native.turn import NESTED, refuse_nested
from llama_cffi.errors import NativeError

if TYPE_CHECKING:
    from llama_cffi._native.abort import AbortFlag
    from llama_cffi._native.gate import ExclusiveGate
    from llama_cffi._native.selector import Selector
    from llama_cffi._native.turn import Turn

STATUS = int(lib.LCH_STEP_STATUS)
SHUT = int(lib.LCH_STEP_SHUT)


class Step:
    """``llama_decode`` for a batch of one row, then a :class:`Selector` on its logits: guarded, and inside the gate.

    Everything that does not change from token to token is kept in one struct. ``batch`` is a ``llama_batch *`` with
    one row; it and the context must outlive this object and whatever :meth:`bind` returned. It waits for the ``turn``
    before it decodes.
    """

    __slots__ = ("_gate", "_keep", "_self")

    def __init__(self, ctx: Any, batch: Any, flag: AbortFlag, gate: ExclusiveGate, n_vocab: int, turn: Turn) -> None:
        step = helpers.new("lch_step")
        step.decode = guard.address("llama_decode")
        step.logits = guard.address("llama_get_logits_ith")
        step.ctx, step.batch, step.batch_size = ctx, batch, bound.ffi.sizeof(batch[0])
        step.token, step.pos, step.seq_id = (
            ffi.cast("int32_t *", column) for column in (batch.token, batch.pos, batch.seq_id[0])
        )
        step.abort, step.door, step.turn, step.n_vocab = flag.native, gate.native, turn.native, n_vocab
        self._self = step
        self._gate = gate
        self._keep = (batch, flag, turn)

    def bind(self, selector: Selector) -> Callable[[int, int, int], int]:
        """``(token, pos, seq_id) -> token``, in C all the way where the helpers are.

        A negative result is for :meth:`fail`.
        """
        return functools.partial(lib.lch_step_run, self._self, selector.native)

    @property
    def status(self) -> int:
        """What ``llama_decode`` returned in the last step; for the result :data:`STATUS`."""
        return int(self._self.status)

    def fail(self, result: int) -> NoReturn:
        """Raise what a negative result means, except :data:`STATUS`, :data:`SHUT` and :data:`~.turn.STOPPED`, which the
        caller knows.

        :class:`NativeError` from the guard, :class:`BusyError`, :class:`ClosedError` or :class:`ContextError` from the
        gate, :class:`BusyError` from the turn, and :class:`SamplerError` as :meth:`Selector.select` does.
        """
        if result == NESTED:
            refuse_nested()
        if result == lib.LCH_FAILED:
            guard.fail("llama_decode")
        if result == lib.LCH_STEP_NO_ROW:
            raise NativeError("llama_get_logits_ith: no logits after a decode that asked for them")
        if lib.LCH_DOOR_FORKED <= result <= lib.LCH_DOOR_BUSY:
            self._gate.refuse(result)
        raise_selection_error(result)


__all__ = ["SHUT", "STATUS", "Step"]
