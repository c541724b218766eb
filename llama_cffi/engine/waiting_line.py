"""In which order prompts are computed, and which sequence starts next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import NamedTuple

from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot

MAX_PASSED = 8
"""How many sequences may start before one that cannot start yet."""
_LOOKED_AT = 16
"""Waiting sequences whose beginnings are compared with what is in memory."""
_UNKNOWN_RATE = 1000.0
"""Tokens of prompts per second while nothing is measured."""
_LEVEL_SECONDS = 30.0
"""Seconds of waiting, beside twice those of its prefill, after which a sequence counts as one level more urgent."""

Rank = tuple[float, bool, float]
"""What a sequence is ordered by: the lower, the sooner."""


class Candidate(NamedTuple):
    """A waiting sequence, and where it would start: as the scheduler's Admission."""

    rank: Rank
    sequence: RunningSequence
    slot: Slot
    source: Slot | None
    n_reused: int


class WaitingLine:
    """Orders prompts by priority, then by the time that they still take less the time that they have waited.

    So short prompts come first, equal ones in the order of their arrival, and each prompt is first of its priority
    after it has waited for as long as it takes; after longer it is one level more urgent, and so on. One that was
    passed as often as may be comes first of its level. What of a prompt is in memory does not only shorten it: it
    counts for it once more, so that it is used before others push it out.
    """

    def __init__(self, cost: DecodeCost, clock: Callable[[], float]) -> None:
        self._cost = cost
        self._clock = clock
        self.waiting: deque[RunningSequence] = deque()
        self.n_left = 0
        """How often a sequence has left the queue: it has begun, or ended."""

    def leave(self, sequence: RunningSequence) -> None:
        """Take a sequence out of the queue, if it is there."""
        if sequence in self.waiting:
            # First: between the two an interrupt may come, and one too many does no harm.
            self.n_left += 1
            self.waiting.remove(sequence)

    def rank(self, sequence: RunningSequence, n_left: int, now: float) -> Rank:
        """Return what orders a sequence with this many tokens to compute."""
        seconds = n_left / (self._cost.prefill_rate or _UNKNOWN_RATE)
        waited = now - sequence.submitted
        level = sequence.priority - waited // (_LEVEL_SECONDS + 2 * max(0.0, seconds))
        return level, sequence.n_passed < MAX_PASSED, seconds - waited

    def in_order(self, sequences: list[RunningSequence]) -> list[RunningSequence]:
        """Return started sequences in the order in which their prompts are computed."""
        if len(sequences) < 2:
            return sequences
        now = self._clock()
        return sorted(sequences, key=lambda one: self.rank(one, one.n_pending, now))

    def candidates(self, choose: Callable[[RunningSequence], tuple[Slot, Slot | None, int] | None]) -> list[Candidate]:
        """Return the waiting sequences that may start next, in order; ``choose`` finds the place of one."""
        now = self._clock()
        found = []
        for sequence in self._first(now):
            choice = choose(sequence)
            if choice is not None:
                n_left = len(sequence.cells) - 2 * choice[2]
                found.append(Candidate(self.rank(sequence, n_left, now), sequence, *choice))
        return sorted(found, key=lambda one: one.rank)

    def _first(self, now: float) -> Iterable[RunningSequence]:
        if len(self.waiting) <= _LOOKED_AT:
            return self.waiting
        return nsmallest(_LOOKED_AT, self.waiting, key=lambda one: self.rank(one, len(one.cells), now))


__all__ = ["MAX_PASSED", "Candidate", "Rank", "WaitingLine"]
