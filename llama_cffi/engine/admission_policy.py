"""Which waiting sequence starts next, and in which slot."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from llama_cffi.core.prompt import Prompt, common_prefix
from llama_cffi.engine.cell_budget import CellBudget
from llama_cffi.engine.host_cache import MIN_TOKENS
from llama_cffi.engine.prefill_budget import PrefillBudget
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot, choose_slot
from llama_cffi.engine.waiting_line import MAX_PASSED, Candidate, WaitingLine

_WORTH_WAITING = 8
"""Cells to share for which a sequence waits until another one's prefill has computed them."""
_PART_DONE = 2
"""Most prompts, of one conditioning and as urgent, that are computed in part."""


class AdmissionPolicy:
    """Chooses, in the order of a :class:`WaitingLine`, the first sequence that may start.

    A sequence starts when the next decode would take something of its prompt, nothing that it can share is being
    computed, and the memory has room (:class:`CellBudget`). At most two prompts are computed in part. One that cannot
    start yet is passed by at most 8 others of its level. ``slots`` and ``running`` are those of the scheduler.
    """

    def __init__(
        self,
        slots: list[Slot],
        line: WaitingLine,
        running: list[RunningSequence],
        budget: PrefillBudget,
        cells: CellBudget,
        clock: Callable[[], float],
        *,
        can_copy: bool,
        can_cut: bool,
    ) -> None:
        self._slots, self._line, self._running = slots, line, running
        self._budget, self._cells = budget, cells
        self._now = clock
        self._can_copy, self._can_cut = can_copy, can_cut

    def next(self) -> Candidate | None:
        """Return the waiting sequence that may start now, if any; those before it have been passed once more."""
        running = self._running
        n_rows = sum(len(sequence.cells) - sequence.n_past == 1 for sequence in running)
        prefilling = [one for one in running if len(one.cells) - one.n_past > 1 and not one.waits]
        passed: list[RunningSequence] = []
        for candidate in self._line.candidates(self._places([slot.held for slot in self._slots])):
            sequence = candidate.sequence
            if not self._is_next(candidate, prefilling, n_rows):
                continue
            if self._can_start(candidate):
                for one in passed:
                    one.n_passed += 1
                return candidate
            if sequence.n_passed >= MAX_PASSED:
                return None
            passed.append(sequence)
        return None

    def _places(self, held: SequenceOf[Prompt]) -> Callable[[RunningSequence], tuple[Slot, Slot | None, int] | None]:
        """Return what finds the place of a sequence while the slots hold this."""

        def choose(sequence: RunningSequence) -> tuple[Slot, Slot | None, int] | None:
            request = sequence.request
            return choose_slot(
                self._slots, sequence.wanted, request.conditioning,
                can_copy=self._can_copy, can_cut=self._can_cut, held=held, wanted=request.slot,
            )  # fmt: skip

        return choose

    def _is_next(self, candidate: Candidate, prefilling: list[RunningSequence], n_rows: int) -> bool:
        """Whether the next decode takes something of a prompt: one that waits until then may find more to reuse."""
        sequence = candidate.sequence
        same = [one for one in prefilling if one.request.conditioning == sequence.request.conditioning]
        n_left = len(sequence.cells) - candidate.n_reused
        room = budget = self._budget.tokens(n_rows)
        now = self._now()
        for other in self._line.in_order(same):
            pending = other.n_pending
            if self._line.rank(other, pending, now) > candidate.rank:
                break
            taken = min(pending, self._budget.share(pending, room, before_shorter=n_left < pending))
            room -= taken
            if room <= 0 or (taken == pending and budget - room >= self._budget.enough(n_rows)):
                return False
        if n_left <= room or not same:
            return True
        return sum(one.priority <= sequence.priority for one in same) < _PART_DONE

    def _can_start(self, candidate: Candidate) -> bool:
        _, sequence, slot, source, n = candidate
        return not self._shares_later(sequence, n) and self._cells.has_room(
            sequence, self._running, self._slots, source if source is not None else slot, n
        )

    def _shares_later(self, sequence: RunningSequence, n_reused: int) -> bool:
        """Whether what another sequence's prefill is computing right now can be shared when it is done: all of it, or
        up to where its memory will be copied to the host.
        """
        if sequence.computes_all:
            return False
        cells, conditioning = sequence.cells, sequence.request.conditioning
        for other in self._running:
            if other.n_pending > 1 and other.request.conditioning == conditioning:
                n = min(common_prefix(other.cells, cells), len(cells) - 1)
                if not self._can_copy:
                    n = max((one for one in other.checkpoints if other.n_past < one <= n), default=0)
                if n - n_reused >= (_WORTH_WAITING if self._can_copy else MIN_TOKENS):
                    return True
        return False


__all__ = ["AdmissionPolicy"]
