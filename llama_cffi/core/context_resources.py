"""The resources that a native context owns: thread pools, and its adapters."""

from __future__ import annotations

from typing import Any

from llama_cffi._native import guard, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi.core.adapter import Attached
from llama_cffi.core.threads import free_pool, make_pool, pause_pool


class ContextResources:
    """The resources that are freed with a ``llama_context``. They never refer to the Context: see Handle."""

    __slots__ = ("_borrows", "_gate", "_pools", "adapters")

    def __init__(self, gate: ExclusiveGate, lender: ContextResources | None = None) -> None:
        self._gate = gate
        self.adapters = Attached()
        self._borrows = lender is not None
        self._pools: dict[int, Cell] = {} if lender is None else lender._pools

    def attach_pools(self, ptr: Any, n_threads: int, n_threads_batch: int) -> None:
        """Compute with one pool when both counts agree, otherwise with one for single tokens and one for prompts."""
        for count in (n_threads, n_threads_batch):
            make_pool(count, self._pools.setdefault(count, []))
        # Pools no longer used stay (asleep) until the context goes: the CPU backend pauses the one it had before.
        lib.llama_attach_threadpool(ptr, self._pools[n_threads][0], self._pools[n_threads_batch][0])

    def pause_pools(self) -> None:
        """Let all threads sleep until the next computation."""
        for pool in self._pools.values():
            pause_pool(pool)

    def free(self, cell: Cell) -> None:
        """Free the context in the cell, and then what it used; an interrupted call may be repeated."""
        self._gate.native.shut = 1
        guard.free("llama_free", cell)
        self.adapters.release()
        if not self._borrows:
            for pool in self._pools.values():
                free_pool(pool)


__all__ = ["ContextResources"]
