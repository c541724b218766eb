"""The resources that a native context owns: its threads, and its adapters."""

from __future__ import annotations

from llama_cffi._native import guard
from llama_cffi._native.atomic import Cell
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi.core.adapter import Attached
from llama_cffi.core.context_threads import ContextThreads


class ContextResources:
    """The resources that are freed with a ``llama_context``. They never refer to the Context: see Handle."""

    __slots__ = ("_gate", "adapters", "threads")

    def __init__(self, gate: ExclusiveGate, threads: ContextThreads) -> None:
        self._gate = gate
        self.adapters = Attached()
        self.threads = threads

    def free(self, cell: Cell) -> None:
        """Free the context in the cell, and then what it used; an interrupted call may be repeated."""
        self._gate.native.shut = 1
        guard.free("llama_free", cell)
        self.adapters.release()
        self.threads.release()


__all__ = ["ContextResources"]
