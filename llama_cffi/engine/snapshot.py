"""The current and total counts of an engine, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama_cffi.engine.telemetry import HistogramName, HistogramSnapshot, TokenSource


@dataclass(frozen=True, kw_only=True)
class EngineSnapshot:
    """The counts at one moment, and the sums since the engine was created."""

    running: int
    """Requests that have a slot."""
    waiting: int
    """Requests that wait for a slot."""
    waiting_tokens: int
    """Tokens of the prompts of waiting requests."""
    slots: int
    """Requests that can run at once."""
    failed: bool
    """Whether the engine's thread has ended with an unexpected exception."""
    requests: Mapping[str, int]
    """Ended requests by their finish reason, or ``"error"``."""
    prompt_tokens: Mapping[TokenSource, int]
    """Prompt tokens of ended requests, by their origin: computed, found in memory, copied back from host memory, or
    read from the disk."""
    generated_tokens: int
    """Tokens of ended requests."""
    drafted_tokens: int
    accepted_tokens: int
    """Drafted tokens that were accepted."""
    preempted: int
    """How often a request lost its slot because the memory was full, and had to be computed again."""
    histograms: Mapping[HistogramName, HistogramSnapshot]
    """Seconds that requests waited for a slot (``queue``), from the submission to the first token (``first_token``),
    between two tokens of a text (``token_gap``) and in all (``request``), and that steps took: with rows of running
    texts alone (``decode_step``), of prompts alone (``prefill_step``) and of both (``mixed_step``). Their classes are
    :data:`~llama_cffi.engine.telemetry.BOUNDS`."""


__all__ = ["EngineSnapshot"]
