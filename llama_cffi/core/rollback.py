"""Taking back the last tokens of a sequence where layers are recurrent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llama_cffi._native import binding
from llama_cffi.core.placement import gpu_names
from llama_cffi.core.state import has_partial_states
from llama_cffi.errors import StateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context


class _Copy(NamedTuple):
    """The last state of recurrent layers, after ``n`` positions."""

    n: int
    data: NDArray[Any]


class Rollback:
    """Takes back the last tokens of sequences in a context over a recurrent or hybrid model.

    Recurrent layers keep their last state only. :meth:`prepare` is called before a decode whose tokens may be taken
    back. Where the context keeps the states of that many tokens itself (:attr:`Context.n_rs_seq`), and the decode is of
    this sequence alone, nothing is done. Otherwise the state is copied, on the device where it is if the library can do
    that, without the cells of attention layers: these can be cut. The caller holds the context.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kept: dict[int, tuple[int, int]] = {}
        """By sequence, the first and the last number of positions to which the context itself can go back."""
        self._copies: dict[int, _Copy] = {}
        self._partial = has_partial_states()
        on_gpu = not set(gpu_names()).isdisjoint(context.model.placement.devices)
        self._on_device = on_gpu and self._partial and binding.has("LLAMA_STATE_SEQ_FLAGS_ON_DEVICE")

    def prepare(self, seq_id: int, n: int, n_tokens: int, *, alone: bool) -> None:
        """Remember what a sequence of ``n`` positions holds; the next decode computes ``n_tokens`` more of it, and
        nothing else if it is ``alone``.

        Raises :class:`StateError` when the state cannot be copied.
        """
        self.forget(seq_id)
        # Computing other sequences may move a last state to another row of llama.cpp's, without the earlier ones.
        if alone and n_tokens <= self._context.n_rs_seq + 1:
            self._kept[seq_id] = n + 1, n + n_tokens
        else:
            self.copy(seq_id, n)

    def copy(self, seq_id: int, n: int) -> None:
        """Copy the state of a sequence of ``n`` positions; it replaces an earlier copy. Raises as :meth:`prepare`."""
        self.forget(seq_id)
        if n:
            state = self._context.state
            self._copies[seq_id] = _Copy(n, state.seq_data(seq_id, partial=self._partial, on_device=self._on_device))

    def forget(self, seq_id: int | None = None) -> None:
        """Forget what is known of a sequence, or of all: it holds something else now."""
        if seq_id is None:
            self._kept.clear()
            self._copies.clear()
        else:
            self._kept.pop(seq_id, None)
            self._copies.pop(seq_id, None)

    def rewind(self, seq_id: int, n: int) -> int:
        """Cut a sequence back to its first ``n`` positions, or fewer; return how many it holds then.

        A copy can be used repeatedly, until it is replaced or forgotten.
        """
        memory = self._context.memory
        last = memory.seq_pos_max(seq_id)
        end = 0 if last is None else last + 1
        if end == n:
            return n
        # llama.cpp keeps the states of the last decode only, and does not check whether there were others meanwhile.
        first, kept_end = self._kept.pop(seq_id, (0, 0))
        if kept_end == end and first <= n < end and memory.seq_rm(seq_id, n):
            return n
        copy = self._copies.get(seq_id)
        if copy is not None and copy.n <= min(n, end):
            try:
                self._context.state.seq_set_data(seq_id, copy.data, partial=self._partial, on_device=self._on_device)
            except StateError:
                self.forget(seq_id)
                return 0
            memory.seq_rm(seq_id, copy.n)
            return copy.n
        self.forget(seq_id)
        memory.seq_rm(seq_id)
        return 0


__all__ = ["Rollback"]
