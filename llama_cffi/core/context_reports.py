"""What a context reports of itself: timings, and the memory that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from llama_cffi._native import lib
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi._native.turn import Turn
from llama_cffi.core.context_threads import ContextThreads, ThreadUse
from llama_cffi.core.memory_breakdown import MemoryBreakdown, read_breakdown
from llama_cffi.core.native_object import NativeObject


@dataclass(frozen=True)
class ContextPerf:
    """Timings that llama.cpp measured (``llama_perf_context_data``), times in milliseconds."""

    load_ms: float
    prefill_ms: float
    decode_ms: float
    n_prefill: int
    n_decode: int
    n_reused: int


class ContextReports(NativeObject):
    """The part of a context that reports and changes nothing but its timings."""

    _abort: AbortFlag
    _gate: ExclusiveGate
    _output_rows: int
    _threads: ContextThreads

    @property
    def threads(self) -> ThreadUse:
        """The threads that the context computes with now, with the reason for their number."""
        return self._threads.use

    @property
    def turn(self) -> Turn:
        """The turn in which it computes, which others that need the same CPUs take, too."""
        return self._threads.turn

    @property
    def seconds_waited(self) -> float:
        """Seconds that its computations have waited for their turn, in all."""
        return self._abort.seconds_waited

    @property
    def threads_asked(self) -> tuple[int | None, int | None]:
        """``n_threads`` and ``n_threads_batch`` as the caller gave them last."""
        return self._threads.asked

    @property
    def thread_limit(self) -> int | None:
        """Most threads that are computed with for a while; see :meth:`Context.lower_threads`."""
        return self._threads.limit

    @property
    def perf(self) -> ContextPerf:
        """Timings since the last reset; all zero with ``no_perf``. Wraps ``llama_perf_context``."""
        data = lib.llama_perf_context(self.ptr)
        return ContextPerf(data.t_load_ms, data.t_p_eval_ms, data.t_eval_ms, data.n_p_eval, data.n_eval, data.n_reused)

    def perf_reset(self) -> None:
        """Start the timings again. Wraps ``llama_perf_context_reset``."""
        lib.llama_perf_context_reset(self.ptr)

    def memory_breakdown(self) -> MemoryBreakdown:
        """Return the bytes of this context and of its model on each device.

        Raises :class:`UnsupportedError` when the library does not tell. Wraps ``llama_get_memory_breakdown``.
        """
        with self._gate.inside():
            return read_breakdown(self.ptr, self._output_rows)


__all__ = ["ContextPerf", "ContextReports"]
