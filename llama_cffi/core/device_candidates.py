"""The likeliest tokens of a row, found where the logits are computed instead of copying the row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import atomic, binding, ffi, guard, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._native.bindings import missing
from llama_cffi._native.handle import Handle
from llama_cffi.core.strings import to_text
from llama_cffi.errors import SamplerError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context

N_CANDIDATES = 64
"""Tokens of a row that leave the device."""


class DeviceCandidates:
    """Lets a context with ``backend_sampling`` find candidates on its device, sequence by sequence.

    Of a row of such a sequence, the 64 largest logits reach this machine's memory and no others. Switching a sequence
    on or off lets llama.cpp plan its computations anew. Raises :class:`UnsupportedError` for a library that cannot do
    this, and for a vocabulary that is not larger. Wraps ``llama_set_sampler``.
    """

    def __init__(self, context: Context) -> None:
        for name in ("llama_set_sampler", "llama_get_sampled_candidates_ith", "llama_get_sampled_logits_ith"):
            if not binding.has(name):
                raise missing(name, "backend_sampling")
        if context.n_vocab <= N_CANDIDATES:
            raise UnsupportedError(f"backend_sampling needs a vocabulary of more than {N_CANDIDATES} tokens")
        self._access = context.outputs.access
        self._outputs = context.outputs
        self._samplers: dict[int, Handle] = {}

    def switch(self, seq_id: int, on: bool) -> None:
        """Let later decodes find candidates of a sequence, or give its logits as usual.

        The caller holds the context. Raises :class:`UnsupportedError` where the device cannot do this.
        """
        if on == (seq_id in self._samplers):
            return
        if not on:
            self._samplers.pop(seq_id).release()
        else:
            self._samplers[seq_id] = self._attach(seq_id)
        self._outputs.on_device = bool(self._samplers)

    def _attach(self, seq_id: int) -> Handle:
        access = self._access
        ptr = access.ptr
        handle = Handle("Sampler", partial(_free, ptr, seq_id), (access.handle,), access.gate)
        cell: Cell = []
        try:
            atomic.keep(handle.cell, lib.llama_sampler_chain_init, lib.llama_sampler_chain_default_params())
            chain = handle.cell[0]
            atomic.keep(cell, lib.llama_sampler_init_top_k, N_CANDIDATES)
            guard.sampler_chain_add(chain, cell)
            attached = guard.call_int("llama_set_sampler", ptr, seq_id, chain) & 0xFF
            # llama.cpp marks a sampler that its device can compute.
            name = to_text(lib.llama_sampler_name(lib.llama_sampler_chain_get(chain, 0)))
            if not attached or not name.startswith("+"):
                raise UnsupportedError("backend_sampling: the device of the output cannot find the largest logits")
            handle.open(chain)
        except BaseException:
            guard.free("llama_sampler_free", cell)
            handle.release()
            raise
        return handle

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the candidates of a batch row in the order of their numbers, and their logits. The caller holds the
        context."""
        ptr = self._access.ptr
        n = lib.llama_get_sampled_candidates_count_ith(ptr, i)
        if n != N_CANDIDATES or lib.llama_get_sampled_logits_count_ith(ptr, i) != n:
            raise SamplerError(f"the device found {n} candidates of row {i}, not {N_CANDIDATES}")
        tokens: NDArray[np.int32] = _array(lib.llama_get_sampled_candidates_ith(ptr, i), n, np.int32)
        logits: NDArray[np.float32] = _array(lib.llama_get_sampled_logits_ith(ptr, i), n, np.float32)
        order = np.argsort(tokens)
        return tokens[order], logits[order]


def _free(ptr: Any, seq_id: int, cell: Cell) -> None:
    if cell:
        lib.llama_set_sampler(ptr, seq_id, ffi.NULL)
    guard.free("llama_sampler_free", cell)


def _array(pointer: Any, n: int, kind: Any) -> Any:
    return np.frombuffer(ffi.buffer(pointer, 4 * n), dtype=kind)


__all__ = ["N_CANDIDATES", "DeviceCandidates"]
