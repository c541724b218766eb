"""Token selection and log-probabilities on the logits where the last decode left them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._native import ffi, lib
from llama_cffi._native.selector import Selector, logprob, mask, top_logprobs
from llama_cffi.core.outputs import Outputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TokenSelector:
    """Greedy choice, or top-k, top-p, min-p, temperature and a draw, over rows of one Context.

    The distribution is that of a :class:`~llama_cffi.core.sampler.SamplerChain` with the same steps, which copies the
    whole vocabulary first; this reads the row in place. ``temperature <= 0`` is greedy; ``top_k <= 0``, ``top_p=1``
    and ``min_p=0`` switch a step off. The same seed draws the same tokens from the same rows.
    """

    __slots__ = ("_get_row", "_handle", "_n_vocab", "_outputs", "_select", "native")

    def __init__(
        self, outputs: Outputs, *, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
    ) -> None:
        self._outputs = outputs
        self._n_vocab = outputs.n_vocab
        self._handle = outputs.handle
        self._get_row = lib.llama_get_logits_ith
        self.native = Selector(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
        self._select = self.native.select

    def select(self, i: int = -1) -> int:
        """Return the token chosen from batch row ``i`` of the last decode.

        Raises :class:`BatchError` for a row without logits, :class:`SamplerError` for NaN or nothing to choose from.
        """
        row = self._get_row(self._handle.ptr, i)
        return self._select(row if row else self._outputs.logits_row(i), self._n_vocab)

    def select_from(self, logits: NDArray[np.float32]) -> int:
        """Return the token chosen from a row of one's own, float32 of shape ``(n_vocab,)``."""
        return self._select(ffi.from_buffer("float[]", logits), len(logits))


def mask_row(outputs: Outputs, i: int, allowed: NDArray[np.uint32]) -> int:
    """Forbid tokens at batch row ``i`` of the last decode, in place: their logits become -inf.

    ``allowed`` has one bit for each token, bit ``t % 32`` of word ``t // 32``. Returns how many tokens are left.
    Raises :class:`BatchError` for a row without logits.
    """
    return mask(outputs.logits_row(i), outputs.n_vocab, ffi.from_buffer("uint32_t[]", allowed))


def mask_logits(logits: NDArray[np.float32], allowed: NDArray[np.uint32]) -> int:
    """Forbid tokens in a row of one's own, writable float32 of shape ``(n_vocab,)``."""
    pointer = ffi.from_buffer("float[]", logits, require_writable=True)
    return mask(pointer, len(logits), ffi.from_buffer("uint32_t[]", allowed))


def row_logprobs(outputs: Outputs, i: int, token: int, n_top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the log-probability of ``token`` at batch row ``i``, and the ``n_top`` likeliest tokens with theirs.

    Raises the errors of :meth:`TokenSelector.select`.
    """
    row, n = outputs.logits_row(i), outputs.n_vocab
    return logprob(row, n, token), tuple(top_logprobs(row, n, n_top)) if n_top else ()
