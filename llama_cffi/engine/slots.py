"""The memory of a Context as the engine sees it: one slot for each sequence id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, reusable

if TYPE_CHECKING:
    from llama_cffi.engine.running_sequence import RunningSequence

_EMPTY = Prompt()


class SharedCells(NamedTuple):
    """The first ``n`` of some cells that sequences have in common: those of equal ``source``."""

    source: object
    n: int


class Slot:
    """Bookkeeping around one seq_id: the sequence that uses it, or what was left in its memory."""

    __slots__ = ("_conditioning", "_held", "last_used", "seq_id", "sequence", "shared")

    def __init__(self, seq_id: int) -> None:
        self.seq_id = seq_id
        self.sequence: RunningSequence | None = None
        self.last_used = 0
        self.shared: tuple[SharedCells, ...] = ()
        """Which of its first cells other slots may have as well; those behind them are its own."""
        self._held = _EMPTY
        self._conditioning = PLAIN

    @property
    def conditioning(self) -> Conditioning:
        """What its memory was computed with."""
        sequence = self.sequence
        return self._conditioning if sequence is None else sequence.request.conditioning

    @property
    def held(self) -> Prompt:
        """What is in memory, as computing it alone would give."""
        sequence = self.sequence
        return self._held if sequence is None else sequence.held

    @property
    def n_cells(self) -> int:
        """Cells of memory that it refers to."""
        sequence = self.sequence
        return len(self._held) if sequence is None else sequence.n_past

    def take(self, sequence: RunningSequence) -> None:
        """Give the slot to a sequence."""
        self.sequence = sequence
        self._held = _EMPTY

    def release(self, *, keep: bool = True) -> None:
        """Take it back; with ``keep`` the memory stays for the next request that begins like it."""
        self._held, self._conditioning = (self.held.without_content(), self.conditioning) if keep else (_EMPTY, PLAIN)
        self.sequence = None
        if not keep:
            self.shared = ()

    def fill(self, held: Prompt = _EMPTY, conditioning: Conditioning = PLAIN) -> None:
        """Record that the idle slot's memory was replaced: it holds this now, computed under this conditioning."""
        self._held, self._conditioning = held, conditioning
        self.shared = ()

    def cut(self, n: int) -> None:
        """Record that only the first ``n`` cells of its memory are left."""
        self.shared = _first(self.shared, n)

    def share(self, source: Slot, n: int) -> None:
        """Record that its memory holds the first ``n`` cells of another slot, and nothing else."""
        own = source.n_cells - sum(cells.n for cells in source.shared)
        if own > 0:
            source.shared = (*source.shared, SharedCells(object(), own))
        self.shared = _first(source.shared, n)


def _first(shared: tuple[SharedCells, ...], n: int) -> tuple[SharedCells, ...]:
    kept = []
    for cells in shared:
        if n <= 0:
            break
        kept.append(SharedCells(cells.source, min(cells.n, n)))
        n -= cells.n
    return tuple(kept)


def cells_used(parts: Iterable[tuple[tuple[SharedCells, ...], int]]) -> int:
    """Return how many cells are held by sequences that have these numbers of them, shared ones counted once.

    Each part is what :attr:`Slot.shared` and :attr:`Slot.n_cells` say of a slot.
    """
    used = 0
    longest: dict[object, int] = {}
    for shared, n in parts:
        for cells in shared:
            found = min(cells.n, n)
            n -= found
            if found > longest.get(cells.source, 0):
                longest[cells.source] = found
        used += n
    return used + sum(longest.values())


def cells_in(slots: Iterable[Slot]) -> tuple[int, int]:
    """Return how many cells running sequences hold, and how many more idle slots keep."""
    every = [(slot.sequence is not None, (slot.shared, slot.n_cells)) for slot in slots]
    used = cells_used(part for running, part in every if running)
    return used, max(0, cells_used(part for _, part in every) - used)


def choose_slot(
    slots: list[Slot],
    prompt: Prompt,
    conditioning: Conditioning = PLAIN,
    *,
    can_copy: bool = True,
    can_cut: bool = True,
    held: Sequence[Prompt] | None = None,
    wanted: int | None = None,
) -> tuple[Slot, Slot | None, int] | None:
    """Return the idle slot for a prompt, the slot to copy a prefix from (None: the slot's own memory), and its length.

    None when every slot is busy. The longest common prefix wins; an idle slot is used up only when most of what it
    holds is reused, otherwise its memory is shared with the slot unused for longest. Without ``can_copy`` nothing
    can be shared: the idle slot with the longest prefix is used up. ``can_cut`` is as in
    :func:`~llama_cffi.core.prompt.reusable`. What was computed under another conditioning is no prefix. ``held`` is
    what each slot holds, for a caller that asks about several prompts. The slot ``wanted`` is taken if it is idle.
    """
    idle = [slot for slot in slots if slot.sequence is None]
    if not idle:
        return None
    own = next((slot for slot in idle if slot.seq_id == wanted), None)
    usable = slots if can_copy else idle if own is None else [own]
    best, n = None, 0
    for slot, cells in zip(slots, held if held is not None else [slot.held for slot in slots], strict=True):
        if slot not in usable or not cells or slot.conditioning != conditioning:
            continue
        length = reusable(cells, prompt, can_cut=can_cut)
        if length > n or (slot is own and length == n > 0):
            best, n = slot, length
    if own is not None:
        return own, None if best is own else best, n
    if best is not None and best.sequence is None and (2 * n >= len(best.held) or not can_copy):
        return best, None, n
    target = min(idle, key=lambda slot: (len(slot.held) > 0, slot.last_used))
    if best is None:
        return target, None, 0
    return (target, None, n) if target is best else (target, best, n)


__all__ = ["SharedCells", "Slot", "cells_in", "cells_used", "choose_slot"]
