"""What an engine is doing and has done, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama_cffi.engine.telemetry import HistogramName, HistogramSnapshot, TokenSource


@dataclass(frozen=True, kw_only=True)
class MemoryCounts:
    """What of an engine's memory is in use."""

    cells: int
    """Cells of memory, over all requests."""
    used: int
    """Cells that running requests hold; those that several share count once."""
    kept: int
    """Further cells, which are kept for prompts that begin alike until the room is needed."""
    host_bytes: int
    """Bytes of the host's memory in which beginnings are kept that had to leave the context's memory."""


@dataclass(frozen=True, kw_only=True)
class EngineSnapshot:
    """Counts of one moment, and sums since the engine was made."""

    running: int
    """Requests that have a slot."""
    waiting: int
    """Requests that have none yet."""
    waiting_tokens: int
    """Tokens of their prompts."""
    slots: int
    """Requests that can run at once."""
    failed: bool
    """Whether the engine's thread has ended with an unexpected exception."""
    requests: Mapping[str, int]
    """Ended requests by their finish reason, or ``"error"``."""
    prompt_tokens: Mapping[TokenSource, int]
    """Prompt tokens of ended requests, by where they came from: computed, found in memory, copied
    back from the host's memory, or read from the disk."""
    generated_tokens: int
    """Tokens of ended requests."""
    drafted_tokens: int
    accepted_tokens: int
    """Drafted tokens that were right."""
    preempted: int
    """How often a request lost its slot, because memory was full, and had to be computed again."""
    memory: MemoryCounts
    histograms: Mapping[HistogramName, HistogramSnapshot]
    """Seconds that requests waited for a slot (``queue``), from the submission to the first token (``first_token``),
    between two tokens of a text (``token_gap``) and in all (``request``), and that steps took: with rows of running
    texts alone (``decode_step``), of prompts alone (``prefill_step``) and of both (``mixed_step``). Their classes are
    :data:`~llama_cffi.engine.telemetry.BOUNDS`."""


__all__ = ["EngineSnapshot", "MemoryCounts"]
