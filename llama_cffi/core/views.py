"""Windows on what a Context computed, without a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.errors import StaleViewError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.embeddings import EmbeddingOutputs


class OutputView(ProcessBound):
    """A window on one row of logits or embeddings inside the context; valid until its next decode.

    :attr:`array` raises :class:`StaleViewError` afterwards, and :class:`ClosedError` after close.
    """

    _instead_of_pickling = "send a copy of its array"
    _instead_of_copying = "copy its array"

    __slots__ = ("_context", "_generation", "_row", "_size")

    def __init__(self, context: EmbeddingOutputs, row: Any, size: int, generation: int) -> None:
        self._context, self._row, self._size, self._generation = context, row, size, generation

    @property
    def array(self) -> NDArray[np.float32]:
        """float32 of one dimension without a copy. Do not keep it beyond the next decode."""
        context = self._context
        context.ptr  # noqa: B018 - raises when closed
        if context._door.n_computed != self._generation:
            raise StaleViewError("this view is from before the context's last decode; take a copy instead of a view")
        return np.frombuffer(ffi.buffer(self._row, 4 * self._size), dtype=np.float32)


def copied(row: Any, size: int) -> NDArray[np.float32]:
    """A copy of ``size`` floats at a native pointer."""
    copy: NDArray[np.float32] = np.frombuffer(ffi.buffer(row, 4 * size), dtype=np.float32).copy()
    return copy


__all__ = ["OutputView", "copied"]
