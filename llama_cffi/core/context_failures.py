"""What a context raises when a computation failed, and how it is left."""

from __future__ import annotations

from typing import NoReturn

from llama_cffi._native import log, shutdown
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.turn import NESTED, STOPPED, refuse_nested
from llama_cffi.core.batch import Batch
from llama_cffi.core.context_access import ContextAccess
from llama_cffi.core.context_conditioning import ContextConditioning
from llama_cffi.core.control_vector import apply_control_vector
from llama_cffi.core.decode_errors import ABORTED, NO_MEMORY, no_memory, raise_decode_error
from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.errors import NativeError


class ContextFailures(ContextConditioning):
    """The part of a context that knows what a failure means."""

    n_ctx: int
    n_seq_max: int
    _abort: AbortFlag
    _access: ContextAccess

    def _fail(self, code: int, batch: Batch | EmbeddingBatch) -> NoReturn:
        if code == NESTED:
            refuse_nested()
        flag = self._abort
        if (exception := flag.take_exception()) is not None:
            raise exception
        if shutdown.begun():
            shutdown.refuse()
        lines = log.lines_since(log.call_mark())
        log.pump()
        if code in (ABORTED, STOPPED):
            raise flag.error("the decode")
        if code == NO_MEMORY:
            self._reserve_anew()
        raise_decode_error(code, batch, self.model.vocab, n_ctx=self.n_ctx, n_seq_max=self.n_seq_max, lines=lines)

    def _fail_native(self, error: NativeError) -> NoReturn:
        """Raise what a native call that was cut off means."""
        self._access.note_damage(error)
        lacking = None if self._door.shut else no_memory(error.message, error.log)
        if lacking is not None:
            self._reserve_anew()
        raise lacking or error

    def _reserve_anew(self) -> None:
        # The next decode is to allocate what it computes with, or to fail: llama.cpp believes to have it.
        apply_control_vector(self.ptr, self.model, *self._control_vector)


__all__ = ["ContextFailures"]
