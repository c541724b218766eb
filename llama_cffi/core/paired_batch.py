"""Tokens with the hidden states beside them: the input of draft heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llama_cffi._native import ffi
from llama_cffi.core.batch import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PairedBatch(Batch):
    """A :class:`Batch` with a row of hidden states beside each token: ``states``, float32 of shape
    ``(capacity, width)``.

    Without ``tokens`` the states alone are the input, as the encoder of an EAGLE-3 model takes them.
    """

    __slots__ = ("states", "width")

    def __init__(self, capacity: int, width: int, *, tokens: bool = True) -> None:
        super().__init__(capacity)
        self.width = width
        self.states: NDArray[np.float32] = np.zeros((capacity, width), dtype=np.float32)
        native: Any = self.ptr
        native.embd = buffer = ffi.from_buffer("float[]", self.states)
        self._keep = (self._keep, buffer)
        if not tokens:
            native.token = ffi.NULL

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PairedBatch cannot be pickled: send its arrays")


__all__ = ["PairedBatch"]
