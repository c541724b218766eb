"""Which cells of which sequences the next decode computes.

Pure bookkeeping: no native call, and what time it is comes from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import attrgetter
from time import perf_counter

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, reusable
from llama_cffi.engine.admission_policy import AdmissionPolicy
from llama_cffi.engine.cell_budget import CellBudget
from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.plan import Admission, Prepare, StepPlan, Work, count_tokens, may_be_lone
from llama_cffi.engine.prefill_budget import PrefillBudget
from llama_cffi.engine.row_groups import RowGroups
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot
from llama_cffi.engine.waiting_line import Candidate, WaitingLine

_NO_PADDING = 64
"""Decodes without padding after there was no room for it in memory."""

_by_turn = attrgetter("turn")


class Scheduler:
    """Decides what the next decode holds: rows of sequences that generate, and pieces of prompts.

    Rows are computed in the groups that take the least time for each (:class:`RowGroups`), in turns; with a piece of a
    prompt all of them are in the decode, which is as long as :class:`PrefillBudget` says. A medium has a decode of its
    own, between which the rows have theirs. Prompts are computed in the order of :class:`WaitingLine`; a waiting
    sequence starts when a slot is idle and :class:`AdmissionPolicy` chooses it. Drafts get what is left of the batch.
    Sequences with different adapters take turns.

    A sequence that finds no room in memory is put off, the least urgent and among those the newest first: it waits, and
    its tokens are computed again.
    """

    def __init__(
        self,
        n_batch: int,
        n_ubatch: int,
        n_slots: int,
        cost: DecodeCost,
        *,
        can_copy: bool = True,
        can_cut: bool = True,
        can_pad: bool | None = None,
        n_ctx: int | None = None,
        n_cells: int | None = None,
        max_step_seconds: float | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._n_batch = n_batch
        self._n_ctx = n_ctx
        self._can_copy = can_copy
        self._can_cut = can_cut
        self._cost = cost
        self._now = clock
        self.slots = [Slot(seq_id) for seq_id in range(n_slots)]
        self.line = WaitingLine(cost, clock)
        self.waiting: deque[RunningSequence] = self.line.waiting
        self.running: list[RunningSequence] = []
        self._budget = PrefillBudget(n_batch, n_ubatch, cost, max_step_seconds)
        can_pad = can_cut if can_pad is None else can_cut and can_pad
        self._groups = RowGroups(cost, n_batch, can_pad=can_pad, max_seconds=max_step_seconds)
        self._cells = CellBudget(n_cells)
        self._policy = AdmissionPolicy(
            self.slots, self.line, self.running, self._budget, self._cells, clock, can_copy=can_copy, can_cut=can_cut
        )
        self._clock = 0
        self._turn_number = 0
        self._prompts_next = True
        self._medium_last = False
        """Whether the last decode was that of a medium."""
        self._unpadded = 0
        self._padded = False
        self._full = False
        self._stuck = False
        """Whether none of those that wait can start until one comes or one goes."""
        self.lone: RunningSequence | None = None
        """The running sequence when it is the only one and no sequence waits: the next plan is about it alone, as the
        one before was."""
        self._conditioning = PLAIN
        self.leaving: Callable[[Slot], object] = lambda slot: None
        """Is called with a slot before its memory is removed."""
        self.awaits: Callable[[RunningSequence], bool] | None = None
        """Says whether a sequence waits for embeddings of its media; None where there is nothing to wait for."""

    def submit(self, sequence: RunningSequence) -> None:
        """Queue a sequence."""
        sequence.submitted = self._now()
        self.waiting.append(sequence)
        self._stuck = False
        self.lone = None

    def measured(self, plan: StepPlan, seconds: float) -> None:
        """Record the duration of the decode of a plan."""
        if any(one.sequence.drafting is not None and one.n_tokens > 1 and len(one.sequence.output) > 1 for one in plan):
            return  # what is computed again after a draft is neither rows nor a prompt
        n_rows, n_prefill = count_tokens(plan)
        if n_prefill:
            self._cost.add_prefill(n_rows, n_prefill, seconds)
        elif n_rows:
            self._cost.add(n_rows, seconds)
        if self._padded and not plan[-1].n_padding:
            self._unpadded = _NO_PADDING

    # -- the next decode

    def plan(self, prepare: Prepare) -> StepPlan:
        """Return the next decode; empty when there is nothing to do."""
        self._padded = False
        if self.awaits is not None:
            for sequence in self.running:
                sequence.waits = self.awaits(sequence)
        if self.waiting and not ((self._full or self._stuck) and self.running):
            self._admit(prepare)
        running = self._turn()
        self.lone = running[0] if len(self.running) == 1 and not self.waiting and may_be_lone(running) else None
        rows = [one for one in running if len(one.cells) - one.n_past == 1 and one.cells[-1] >= 0]
        if len(rows) == len(running):
            return self._rows(rows)
        prompts = [one for one in running if len(one.cells) - one.n_past > 1 or one.cells[-1] < 0]
        if rows and self._budget.too_long(len(rows)):
            # Rows and prompts take turns then.
            self._prompts_next = not self._prompts_next
            if self._prompts_next:
                return self._rows(rows)
            rows = []
        return self._rows_and_prompts(rows, prompts)

    def _rows(self, rows: list[RunningSequence]) -> StepPlan:
        self._medium_last = False
        n = len(rows)
        n_computed = n
        if n > 1:
            pad = not self._unpadded and all(sequence.drafting is None for sequence in rows)
            n_taken, n_computed = self._groups.choose(min(n, self._n_batch), pad=pad)
            if n_taken < n:
                rows = self._next_turn(rows, n_taken)
            self._unpadded = max(0, self._unpadded - 1)
        plan = [Work(sequence, 1, True) for sequence in rows]
        if n_computed > len(plan):
            self._pad(plan, n_computed - len(plan))
        return self._with_room(plan, self._n_batch - len(plan))

    def _next_turn(self, rows: list[RunningSequence], n: int) -> list[RunningSequence]:
        """Take those whose last turn was the longest ago."""
        self._turn_number += 1
        taken = sorted(rows, key=_by_turn)[:n]
        for sequence in taken:
            sequence.turn = self._turn_number
        return taken

    def _pad(self, plan: StepPlan, n: int) -> None:
        host = min(range(len(plan)), key=lambda i: len(plan[i].sequence.cells))
        if self._n_ctx is None or len(plan[host].sequence.cells) + n <= self._n_ctx:
            plan[host], plan[-1] = plan[-1], plan[host]._replace(n_padding=n)
            self._padded = True

    def _rows_and_prompts(self, rows: list[RunningSequence], prompts: list[RunningSequence]) -> StepPlan:
        plan = [Work(sequence, 1, True) for sequence in rows]
        alone = len(self.running) == 1 and not self.waiting
        budget = left = self._budget.tokens(len(rows), alone=alone)
        enough = self._budget.enough(len(rows))
        ordered = self.line.in_order(prompts)
        medium = ordered[0].next_medium
        if medium is not None:
            if rows and self._medium_last:
                return self._rows(rows)
            self._medium_last = True
            return [Work(ordered[0], medium.media.n_cells, medium.end == len(ordered[0].cells))]
        self._medium_last = False
        for i, sequence in enumerate(ordered):
            if sequence.next_medium is not None:
                continue
            pending = sequence.n_pending
            if self._budget.to_its_end(pending, left, len(rows) + budget - left):
                budget, left = budget + pending - left, pending
            shorter = any(other.n_pending < pending for other in ordered[i + 1 :])
            count = sequence.next_cells(self._budget.share(pending, left, before_shorter=shorter))
            if count:
                plan.append(Work(sequence, count, count == pending))
                left -= count
            if left <= 0 or (count == pending and budget - left >= enough):
                break
        n_tokens = sum(work.n_tokens for work in plan)
        return self._with_room(plan, self._n_batch - n_tokens)

    def _with_room(self, plan: StepPlan, budget: int) -> StepPlan:
        """Share what decode steps and prefill leave of the batch among the sequences that draft."""
        drafting = [one.n_tokens == 1 and one.output and one.sequence.drafting is not None for one in plan]
        n_drafting = sum(drafting)
        if not n_drafting or budget < n_drafting:
            return plan
        room = budget // n_drafting
        return [one._replace(n_draft=room) if drafts else one for one, drafts in zip(plan, drafting, strict=True)]

    def _turn(self) -> list[RunningSequence]:
        """The running sequences whose conditioning is next: each conditioning has its turn, in a circle."""
        running = self.running if self.awaits is None else [one for one in self.running if not one.waits]
        found: list[Conditioning] = []
        for sequence in running:
            # The same object is found without a call, which happens at every step.
            if sequence.request.conditioning not in found:
                found.append(sequence.request.conditioning)
        if len(found) > 1:
            last = found.index(self._conditioning) if self._conditioning in found else -1
            self._conditioning = found[(last + 1) % len(found)]
            return [sequence for sequence in running if sequence.request.conditioning == self._conditioning]
        self._conditioning = found[0] if found else self._conditioning
        return running

    # -- admission

    def _admit(self, prepare: Prepare) -> None:
        while self.waiting and any(slot.sequence is None for slot in self.slots):
            started = self._policy.next()
            if started is None:
                self._stuck = not any(len(sequence.cells) - sequence.n_past > 1 for sequence in self.running)
                return
            self._start(started, prepare)

    def _start(self, candidate: Candidate, prepare: Prepare) -> None:
        _, sequence, slot, source, n = candidate
        n_asked, n = n, prepare(Admission(slot, source, n), sequence)
        if n > n_asked:
            slot.shared = ()
        elif source is not None:
            slot.share(source, n)
        else:
            slot.cut(n)
        slot.take(sequence)
        sequence.start(slot.seq_id, n)
        sequence.waits = self.awaits is not None and self.awaits(sequence)
        sequence.turn = self._turn_number
        self.running.append(sequence)
        # Last: a sequence that waits has not begun, whatever an interrupt has left of its beginning.
        self.line.leave(sequence)

    # -- eviction

    def release(self, sequence: RunningSequence, *, keep: bool = True) -> None:
        """Free the slot of a sequence that ended; its tokens are kept for reuse by default."""
        self._stuck = False
        sequence.encodings.clear()
        if sequence.done:
            self._cells.note_end(sequence)
        if sequence.seq_id is None:
            self.line.leave(sequence)
            return
        self._clock += 1
        slot = self.slots[sequence.seq_id]
        slot.last_used = self._clock
        slot.release(keep=keep and sequence.reuse)
        with suppress(ValueError):  # done before, and interrupted
            self.running.remove(sequence)
        self._full = False
        self.lone = None
        sequence.seq_id = None

    def inherit(self, slots: Iterable[Slot]) -> None:
        """Keep what idle slots of another scheduler with as many sequences keep, and which was used last."""
        for mine, other in zip(self.slots, slots, strict=True):
            mine.fill(other.held, other.conditioning)
            mine.shared = other.shared
            mine.last_used = other.last_used
            self._clock = max(self._clock, other.last_used)

    def spare(self, prompt: Prompt) -> tuple[Slot, int] | None:
        """Return the idle slot whose memory is missed least, and how much of a prompt some memory holds; None without
        an idle slot.

        The prompt is one without conditioning.
        """
        idle = [slot for slot in self.slots if slot.sequence is None]
        if not idle:
            return None
        usable = self.slots if self._can_copy else idle
        plain = [slot for slot in usable if not slot.conditioning]
        held = max((reusable(slot.held, prompt, can_cut=self._can_cut) for slot in plain), default=0)
        return min(idle, key=lambda slot: (len(slot.held) > 0, slot.last_used)), held

    def forget_oldest(self) -> int | None:
        """Forget what is kept in the slot unused for longest: its seq_id to clear, None when nothing is kept."""
        idle = [slot for slot in self.slots if slot.sequence is None and slot.held]
        if not idle:
            return None
        slot = min(idle, key=lambda slot: slot.last_used)
        self.leaving(slot)
        slot.release(keep=False)
        return slot.seq_id

    def make_room(self) -> int | None:
        """Return the seq_id to clear when the memory is full; None when one sequence is left and nothing can go.

        Tokens kept for reuse go first, the slot unused for longest before the others; then the least urgent sequence,
        the newest of several, goes back to the queue, and none is admitted until another one ends.
        """
        seq_id = self.forget_oldest()
        if seq_id is not None:
            return seq_id
        if len(self.running) < 2:
            return None
        sequence = max(reversed(self.running), key=lambda one: (one.priority, one.submitted))
        seq_id = sequence.seq_id
        if seq_id is not None and sequence.reuse:
            self.leaving(self.slots[seq_id])
        # First: in between it would be nowhere.
        self.waiting.appendleft(sequence)
        self.release(sequence, keep=False)
        sequence.n_past = 0
        self._full = True
        return seq_id


__all__ = ["Admission", "Prepare", "Scheduler", "StepPlan", "Work"]
