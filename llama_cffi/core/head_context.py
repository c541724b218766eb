"""The context of draft heads, beside the context of their target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_cffi._native import hidden_states
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.draft_layers import HeadKind, set_heads
from llama_cffi.core.hidden_states import HiddenStates
from llama_cffi.core.model import Model
from llama_cffi.core.paired_batch import PairedBatch


class HeadContext(Context):
    """A context that computes draft heads: the layers of a model that predict further tokens (``"mtp"``), or an
    EAGLE-3 model.

    It decodes :class:`PairedBatch` objects of its ``width``, and encodes those of ``encoder_width`` without tokens. It
    computes with the threads of its ``target`` and is closed with it. Raises the errors of :class:`Context` and of
    :class:`HiddenStates`.
    """

    def __init__(
        self, model: Model, options: ContextOptions, *, target: Context, kind: HeadKind, encoder_width: int = 0
    ) -> None:
        self._kind = kind
        self._other = target.ptr
        self._decode_width = self.width = model.n_embd_out
        """Numbers beside each token."""
        self._encode_width = encoder_width
        super().__init__(model, options, threads_of=target)
        self.states = HiddenStates(self.outputs, model, outputs_only=True)
        """The hidden states of the rows whose output was requested."""

    def _amend(self, params: Any) -> None:
        set_heads(params, self._kind, self._other)

    @contextmanager
    def using_head(self, i: int) -> Iterator[None]:
        """Compute with the head of this number, for a model with several."""
        if i == 0:
            yield
            return
        select = hidden_states.function("llama_set_nextn_layer_offset")
        select(self.ptr, i)
        try:
            yield
        finally:
            select(self.ptr, 0)

    def make_batch(self, capacity: int) -> PairedBatch:
        """Return an empty batch for :meth:`decode`."""
        return PairedBatch(capacity, self.width)

    def make_encoder_batch(self, capacity: int) -> PairedBatch:
        """Return an empty batch for :meth:`encode`."""
        return PairedBatch(capacity, self._encode_width, tokens=False)


__all__ = ["HeadContext"]
