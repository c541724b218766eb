"""The current and total counts of an engine, as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cffi.engine.telemetry import HistogramName, HistogramSnapshot, Telemetry, TokenSource

if TYPE_CHECKING:
    from typing_extensions import Self

    from llama_cffi.engine.request import Request
    from llama_cffi.engine.running_sequence import RunningSequence
    from llama_cffi.engine.scheduler import Scheduler
    from llama_cffi.engine.slots import Slot
    from llama_cffi.reply.completion import TextProgress


@dataclass(frozen=True, kw_only=True)
class MemoryCounts:
    """The use of an engine's memory."""

    cells: int
    """The number of memory cells of all requests."""
    used: int
    """Cells that running requests hold; those that several share count once."""
    kept: int
    """Further cells, which are kept for prompts with the same beginning until the room is needed."""
    host_bytes: int
    """Bytes of host memory that hold states evicted from the context's memory."""


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
    memory: MemoryCounts
    histograms: Mapping[HistogramName, HistogramSnapshot]
    """Seconds that requests waited for a slot (``queue``), from the submission to the first token (``first_token``),
    between two tokens of a text (``token_gap``) and in all (``request``), and that steps took: with rows of running
    texts alone (``decode_step``), of prompts alone (``prefill_step``) and of both (``mixed_step``). Their classes are
    :data:`~llama_cffi.engine.telemetry.BOUNDS`."""

    @classmethod
    def of(
        cls,
        scheduler: Scheduler,
        waiting: Sequence[RunningSequence],
        told: Telemetry,
        memory: MemoryCounts,
        *,
        failed: bool,
    ) -> Self:
        """Return the counts of an engine that is made of these."""
        return cls(
            running=len(scheduler.running),
            waiting=len(waiting),
            waiting_tokens=sum(len(one.cells) for one in waiting),
            slots=len(scheduler.slots),
            failed=failed,
            requests=dict(told.finished),
            prompt_tokens=dict(told.tokens),
            generated_tokens=told.generated,
            drafted_tokens=told.drafted,
            accepted_tokens=told.accepted,
            preempted=told.preempted,
            memory=memory,
            histograms=told.histograms(),
        )


@dataclass(frozen=True, kw_only=True)
class SlotSnapshot:
    """A slot at one moment."""

    id: int
    """Its seq_id."""
    n_held: int
    """The number of tokens in its memory."""
    request: Request | None
    """The running request; None while the slot is idle."""
    number: int
    """The number of that request, counted from 1; 0 while the slot is idle."""
    progress: TextProgress | None
    """The progress of that request."""
    has_new_line: bool = False
    """Whether a line of its text has ended."""

    @classmethod
    def of(cls, slot: Slot) -> Self:
        """Return the snapshot of a slot. Any thread may call it, at any time."""
        sequence = slot.sequence
        if sequence is None:
            return cls(id=slot.seq_id, n_held=slot.n_cells, request=None, number=0, progress=None)
        return cls(
            id=slot.seq_id,
            n_held=sequence.n_past,
            request=sequence.request,
            number=sequence.number,
            progress=sequence.progress,
            has_new_line=sequence.has_new_line,
        )


__all__ = ["EngineSnapshot", "MemoryCounts", "SlotSnapshot"]
