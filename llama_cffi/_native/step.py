"""One decode step of one sequence, token in and next token out, as a single native call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from llama_cffi import _native
from llama_cffi._native import abort, guard
from llama_cffi._native._helpers import ffi, lib
from llama_cffi._native.selector import raise_selection_error
from llama_cffi.errors import NativeError

if TYPE_CHECKING:
    from llama_cffi._native.abort import AbortFlag
    from llama_cffi._native.selector import Selector

_get_ident = threading.get_ident
_step_run = lib.lch_step_run
_FAILED, _STATUS, _NO_ROW = int(lib.LCH_FAILED), lib.LCH_STEP_STATUS, lib.LCH_STEP_NO_ROW


class Step:
    """``llama_decode`` for a batch of one row, then a :class:`Selector` on its logits, under the guard.

    Everything that does not change from token to token is kept in a C struct. ``batch`` is a ``llama_batch *`` with
    one row whose columns and whose context outlive this object.
    """

    __slots__ = ("_keep", "_self")

    def __init__(self, ctx: Any, batch: Any, flag: AbortFlag, n_vocab: int) -> None:
        step = ffi.new("lch_step *")
        step.decode = guard.address("llama_decode")
        step.logits = guard.address("llama_get_logits_ith")
        step.ctx, step.batch, step.batch_size = ctx, batch, _native.ffi.sizeof(batch[0])
        step.token, step.pos, step.seq_id = (
            ffi.cast("int32_t *", column) for column in (batch.token, batch.pos, batch.seq_id[0])
        )
        step.abort, step.n_vocab = ffi.cast("lch_abort *", flag.data), n_vocab
        self._self = step
        self._keep = (batch, flag)

    def run(self, selector: Selector, token: int, pos: int, seq_id: int) -> int:
        """The selected token; -1 when ``llama_decode`` returned a :attr:`status` other than 0.

        Raises :class:`NativeError` from the guard, and :class:`SamplerError` as :meth:`Selector.select` does.
        """
        result: int = _step_run(self._self, selector._self, token, pos, seq_id, _get_ident() == abort.main_ident)
        return result if result >= 0 else self._fail(result)

    @property
    def status(self) -> int:
        """What ``llama_decode`` returned in the last :meth:`run`."""
        return int(self._self.status)

    def _fail(self, result: int) -> int:
        if result == _STATUS:
            return -1
        if result == _FAILED:
            guard.fail("llama_decode")
        if result == _NO_ROW:
            raise NativeError("llama_get_logits_ith: no logits after a decode that asked for them")
        raise_selection_error(result)
