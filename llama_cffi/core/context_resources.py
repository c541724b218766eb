"""What a native context owns beside itself: thread pools, and the adapters that it computes with."""

from __future__ import annotations

from typing import Any

from llama_cffi._native import lib
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi.core.adapter import Attached
from llama_cffi.core.threads import free_pool, new_pool


class ContextResources:
    """What is freed with a ``llama_context``. Never refers to the Context: see Handle."""

    __slots__ = ("_borrows", "_gate", "_pools", "adapters")

    def __init__(self, gate: ExclusiveGate, lender: ContextResources | None = None) -> None:
        self._gate = gate
        self.adapters = Attached()
        self._borrows = lender is not None
        self._pools: dict[int, Any] = {} if lender is None else lender._pools

    def attach_pools(self, ptr: Any, n_threads: int, n_threads_batch: int) -> None:
        """Compute with one pool when both counts agree, otherwise with one for single tokens and one for prompts."""
        for count in (n_threads, n_threads_batch):
            if count not in self._pools:
                self._pools[count] = new_pool(count)
        # Pools no longer used stay (asleep) until the context goes: the CPU backend pauses the one it had before.
        lib.llama_attach_threadpool(ptr, self._pools[n_threads], self._pools[n_threads_batch])

    def free(self, ptr: Any) -> None:
        self._gate.native.shut = 1
        lib.llama_free(ptr)
        self.adapters.release()
        while self._pools and not self._borrows:
            free_pool(self._pools.popitem()[1])


__all__ = ["ContextResources"]
