"""Until when running sequences may take, and waiting ones wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from time import monotonic, perf_counter

from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import QueueTimeoutError

_COARSE = 0.02
"""Seconds by which a decode may stop before its deadline: the clock that it looks at has a resolution of its own."""


class Deadlines:
    """The sequences that end at a time, and those that may wait for their turn only for ``patience`` seconds."""

    __slots__ = ("patience", "watched")

    def __init__(self, patience: float | None) -> None:
        self.patience = inf if patience is None else patience
        """Most seconds until a sequence begins."""
        self.watched: list[RunningSequence] = []
        """Those that may be late. It is looked at before every step: an attribute costs no call."""

    def watch(self, sequence: RunningSequence) -> None:
        """Watch a sequence, if it has a deadline or must begin in time."""
        if sequence.deadline is not None or self.patience < inf:
            self.watched.append(sequence)

    def late(self) -> Iterator[tuple[RunningSequence, QueueTimeoutError | None]]:
        """Yield the sequences whose time is over, each with its error if it has not begun in time.

        Each stays among the watched ones until :meth:`let_go`: an interrupt may come before it has ended.
        """
        now = monotonic() + _COARSE
        for sequence in self.watched:
            if sequence.deadline is not None and sequence.deadline <= now:
                yield sequence, None
            elif not sequence.started and perf_counter() - sequence.created > self.patience:
                yield sequence, QueueTimeoutError(f"waited {self.patience:g} seconds for its turn")

    def let_go(self) -> None:
        """Watch those no longer that have ended, or have begun and have no deadline."""
        self.watched = [one for one in self.watched if not one.done and (one.deadline is not None or not one.started)]

    def first(self, sequences: Iterable[RunningSequence] | None = None) -> float | None:
        """Return the earliest deadline of some sequences, by default of all that are watched; None without any."""
        if not self.watched:
            return None
        found = self.watched if sequences is None else sequences
        return min((one.deadline for one in found if one.deadline is not None), default=None)

    def passed(self, sequences: Iterable[RunningSequence]) -> bool:
        """Whether the deadline of one of these sequences has passed."""
        deadline = self.first(sequences)
        return deadline is not None and deadline <= monotonic() + _COARSE


__all__ = ["Deadlines"]
