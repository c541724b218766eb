"""Timings of a context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ContextPerf:
    """Timings that llama.cpp measured (``llama_perf_context_data``), times in milliseconds."""

    load_ms: float
    prefill_ms: float
    decode_ms: float
    n_prefill: int
    n_decode: int
    n_reused: int


__all__ = ["ContextPerf"]
