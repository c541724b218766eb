"""Whether a memory that all sequences share has room for one more."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot, cells_used

_FIRST_EXPECTED = 128
"""Tokens that a text is expected to get before any has ended."""
_LEAST_EXPECTED = 16
"""Tokens that a text is expected to get yet, however many it has."""
_NEW = 1 / 8
"""Weight of the text that ended last in what is expected of others."""


class CellBudget:
    """Decides which sequences start, so that texts rarely have to be preempted.

    A sequence is let in when the cells that running sequences do not hold or are not expected to need have room for the
    rest of its prompt and its expected output, which is the mean of late, and no more than it may get. What idle slots
    keep for reuse is no obstacle: it goes when the room is needed.
    """

    def __init__(self, n_cells: int | None) -> None:
        self._n_cells = n_cells
        self.expected = float(_FIRST_EXPECTED)
        """Mean number of tokens that texts got."""

    def note_end(self, sequence: RunningSequence) -> None:
        """Learn from a text that ended."""
        if sequence.output:
            self.expected += (len(sequence.output) - self.expected) * _NEW

    def need(self, sequence: RunningSequence) -> int:
        """Return how many cells a sequence may want beyond what it holds."""
        expected = max(_LEAST_EXPECTED, int(self.expected) - len(sequence.output))
        return len(sequence.cells) - sequence.n_past + min(expected, max(0, sequence.n_left - 1))

    def has_room(
        self, sequence: RunningSequence, running: Iterable[RunningSequence], slots: list[Slot], source: Slot, n: int
    ) -> bool:
        """Whether there is room for a waiting sequence that reuses the first ``n`` cells of a slot."""
        if self._n_cells is None:
            return True
        parts = [(slot.shared, slot.n_cells) for slot in slots if slot.sequence is not None]
        if not parts:
            return True  # alone it gets what there is
        parts.append((source.shared, n) if source.sequence is None else ((), 0))
        wanted = sum(self.need(one) for one in running) + self.need(sequence) - n
        return cells_used(parts) + wanted <= self._n_cells


__all__ = ["CellBudget"]
