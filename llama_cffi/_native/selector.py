"""Token selection over a row of raw logits, with the distribution of llama.cpp's default chain.

llama.cpp copies the whole vocabulary into 12-byte records, and sorts it for top-p without top-k. The C++
helper does neither; see ``helpers/select.cpp``. Rows are cffi pointers to ``n_vocab`` float32 logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from llama_cffi._native import atomic
from llama_cffi._native.handle import Handle
from llama_cffi._native.helpers import ffi, lib
from llama_cffi.errors import SamplerError

_lch_select, _lch_candidates, _lch_sound = lib.lch_select, lib.lch_candidates, lib.lch_sound

_ERRORS = {
    lib.LCH_SELECT_NAN: "the logits contain NaN",
    lib.LCH_SELECT_EMPTY: "every logit is -inf: no token is left to select",
    lib.LCH_SELECT_INF: "a logit is +inf: it has no probability",
    lib.LCH_SELECT_MEMORY: "no memory left to select a token",
}


class Selector(Handle):
    """Draws tokens as llama.cpp's chain top-k, top-p, min-p, temperature, dist does, from its own random numbers.

    ``temperature`` <= 0 selects the largest logit, the first of equals. ``top_k`` <= 0, ``top_p`` >= 1 and
    ``min_p`` <= 0 switch those steps off. ``seed`` is any integer of 64 bits: the same seed gives the same tokens
    for the same rows. Not for two threads at once. Raises :class:`SamplerError` for parameters that are NaN.
    """

    __slots__ = ("native",)

    def __init__(
        self,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
    ) -> None:
        for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
            if value != value:
                raise SamplerError(f"{name} is NaN")
        if min_p > 1:
            raise SamplerError(f"min_p must be at most 1, got {min_p}")
        top_k = max(0, min(top_k, 2**31 - 1))
        self._make(lib.lch_selector_new, temperature, top_k, top_p, min_p, seed & (2**64 - 1))

    def _make(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__("Selector", partial(atomic.free, lib.lch_selector_free))
        atomic.keep(self.cell, function, *args)
        pointer = self.cell[0]
        if pointer == ffi.NULL:
            self.cell.clear()
            raise MemoryError("no memory for a token selector")
        #: The ``lch_selector``.
        self.native: Any = pointer
        self.open(pointer)

    def select(self, row: Any, n_vocab: int) -> int:
        """Token id drawn from one row. Raises :class:`SamplerError` for NaN, or when nothing can be drawn."""
        token = _lch_select(self.native, row, n_vocab)
        return int(token) if token >= 0 else raise_selection_error(token)

    def reset(self) -> None:
        """Start the random numbers again from the seed."""
        lib.lch_selector_reset(self.native)

    def clone(self) -> Selector:
        """Return a selector that continues from the same state on its own."""
        other = object.__new__(Selector)
        other._make(lib.lch_selector_clone, self.native)
        return other


def instruction_set(wanted: str | None = None) -> str:
    """Return the vector instructions that selection uses: ``"avx512"``, ``"avx2"`` or ``"baseline"``; ``"numpy"``
    without the compiled helpers.

    ``wanted`` replaces the choice for this process, for tests; :class:`ValueError` when the CPU cannot run it.
    """
    if wanted is not None and not lib.lch_select_use(wanted.encode()):
        raise ValueError(f"this CPU or build has no {wanted!r} selection")
    return str(ffi.string(lib.lch_select_isa()).decode())


def logprob(row: Any, n_vocab: int, token: int) -> float:
    """Natural log-probability of a token under the softmax of the whole row; -inf for a masked one.

    Raises :class:`SamplerError` for NaN or infinite rows, and for a token outside the row.
    """
    if not 0 <= token < n_vocab:
        raise SamplerError(f"token {token} is outside the row of {n_vocab} logits")
    out = ffi.new("double *")
    status = lib.lch_logprob(row, n_vocab, token, out)
    return float(out[0]) if status >= 0 else raise_selection_error(status)


def top_logprobs(row: Any, n_vocab: int, k: int) -> list[tuple[int, float]]:
    """Return the ``k`` most probable tokens of a row and their natural log-probabilities, best first.

    Fewer when fewer logits are above -inf. Raises :class:`SamplerError` for NaN or infinite rows.
    """
    k = min(k, n_vocab)
    if k <= 0:
        return []
    ids, logprobs = ffi.new("int32_t[]", k), ffi.new("float[]", k)
    found = lib.lch_top_logprobs(row, n_vocab, k, ids, logprobs)
    if found < 0:
        raise_selection_error(found)
    return list(zip(ffi.unpack(ids, found), ffi.unpack(logprobs, found), strict=True))


def mask(row: Any, n_vocab: int, allowed: Any) -> int:
    """Set the logits of a row to -inf whose bit in ``allowed`` (``uint32_t[]``, lowest bit first) is 0.

    Returns how many tokens are left.
    """
    return int(lib.lch_mask(row, n_vocab, allowed))


def write_candidates(row: Any, n: int, records: Any) -> None:
    """Fill ``n`` records of ``llama_token_data`` with the tokens 0 to n - 1, their logits, and no probability."""
    _lch_candidates(row, n, records)


def logits_sound(records: Any, n: int) -> bool:
    """Return whether none of ``n`` records of ``llama_token_data`` has NaN or +inf for its logit."""
    return bool(_lch_sound(records, n))


def raise_selection_error(code: int) -> NoReturn:
    """Raise what one of ``lch_select_error`` means."""
    raise SamplerError(_ERRORS[code])


__all__ = [
    "Selector",
    "instruction_set",
    "logits_sound",
    "logprob",
    "mask",
    "raise_selection_error",
    "top_logprobs",
    "write_candidates",
]
