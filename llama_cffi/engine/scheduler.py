"""Which cells of which sequences the next decode computes. Pure bookkeeping: no native call, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, common_prefix, reusable
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot, choose_slot

_WORTH_WAITING = 8
"""Cells to share for which a sequence waits until another one's prefill has computed them."""


class Work(NamedTuple):
    """The next ``n_tokens`` cells of a sequence; with ``output`` the last one's logits are wanted.

    The plan has room for ``n_draft`` tokens more, and ``draft`` is what was found to fill it: computed behind the
    sequence's own tokens, every one with logits.
    """

    sequence: RunningSequence
    n_tokens: int
    output: bool
    n_draft: int = 0
    draft: SequenceOf[int] = ()


class Admission(NamedTuple):
    """A sequence about to enter ``slot``, reusing ``n_reused`` tokens: the slot's own, or copied from ``source``."""

    slot: Slot
    source: Slot | None
    n_reused: int


StepPlan = list[Work]
"""One decode: never more than ``n_batch`` tokens in all, drafts included, and all of them with the same adapters."""

Prepare = Callable[[Admission], int]
"""Brings a slot's memory into the state that an Admission asks for; returns how many tokens were really reused."""


class Scheduler:
    """Decides what runs: decode steps first, then prefill in order of arrival, in chunks that fill the batch;
    drafts get what is left.

    A sequence that finds no room in memory is preempted (newest first): it waits, and its tokens are computed again.
    Sequences with different adapters take turns.
    """

    def __init__(self, n_batch: int, n_slots: int, *, can_copy: bool = True, can_cut: bool = True) -> None:
        self._n_batch = n_batch
        self._can_copy = can_copy
        self._can_cut = can_cut
        self.slots = [Slot(seq_id) for seq_id in range(n_slots)]
        self.waiting: deque[RunningSequence] = deque()
        self.running: list[RunningSequence] = []
        self._clock = 0
        self._full = False
        self.lone: RunningSequence | None = None
        """The running sequence when it is the only one and nobody waits: the next plan is about it alone, as the one
        before was."""
        self._conditioning = PLAIN

    def submit(self, sequence: RunningSequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)
        self.lone = None

    def plan(self, prepare: Prepare) -> StepPlan:
        """The next decode; empty when there is nothing to do."""
        if self.waiting and not self._full:
            self._admit(prepare)
        running = self._turn()
        self.lone = running[0] if len(self.running) == 1 and not self.waiting and not running[0].prefills else None
        budget = self._n_batch
        plan = [Work(sequence, 1, True) for sequence in running if sequence.n_pending == 1][:budget]
        budget -= len(plan)
        for sequence in running:
            if budget == 0:
                break
            pending = sequence.n_pending
            if pending > 1:
                count = sequence.next_cells(budget)
                if count:
                    plan.append(Work(sequence, count, count == pending))
                    budget -= count
        return self._with_room(plan, budget) if budget else plan

    def _with_room(self, plan: StepPlan, budget: int) -> StepPlan:
        """Share what decode steps and prefill leave of the batch among the sequences that draft."""
        n_drafting = sum(work.n_tokens == 1 and work.sequence.drafting is not None for work in plan)
        if not n_drafting or budget < n_drafting:
            return plan
        room = budget // n_drafting
        return [
            work._replace(n_draft=room) if work.n_tokens == 1 and work.sequence.drafting is not None else work
            for work in plan
        ]

    def _turn(self) -> list[RunningSequence]:
        """The running sequences whose conditioning is next: each conditioning has its turn, in a circle."""
        running = self.running
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

    def _admit(self, prepare: Prepare) -> None:
        # Prefill that would not start in this step anyway can wait: a slot taken later may reuse more.
        budget = self._n_batch - sum(sequence.n_pending for sequence in self.running)
        while self.waiting and budget > 0:
            sequence = self.waiting[0]
            choice = choose_slot(
                self.slots,
                sequence.wanted,
                sequence.request.conditioning,
                can_copy=self._can_copy,
                can_cut=self._can_cut,
            )
            if choice is None or self._shares_later(sequence, choice[2]):
                return
            admission = Admission(*choice)
            n = prepare(admission)
            self.waiting.popleft()
            slot = admission.slot
            slot.take(sequence)
            sequence.start(slot.seq_id, n)
            self.running.append(sequence)
            budget -= sequence.n_pending

    def _shares_later(self, sequence: RunningSequence, n_reused: int) -> bool:
        """Whether what another sequence's prefill is computing right now can be shared when it is done."""
        cells, conditioning = sequence.cells, sequence.request.conditioning
        return (
            self._can_copy
            and sequence.prompt_logprobs is None
            and any(
                min(common_prefix(other.cells, cells), len(cells) - 1) - n_reused >= _WORTH_WAITING
                for other in self.running
                if other.n_pending > 1 and other.request.conditioning == conditioning
            )
        )

    def release(self, sequence: RunningSequence, *, keep: bool = True) -> None:
        """A sequence ended: free its slot, keeping its tokens for reuse unless told otherwise."""
        if sequence.seq_id is None:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return
        self._clock += 1
        slot = self.slots[sequence.seq_id]
        slot.last_used = self._clock
        slot.release(keep=keep)
        sequence.seq_id = None
        self.running.remove(sequence)
        self._full = False
        self.lone = None

    def inherit(self, slots: Iterable[Slot]) -> None:
        """Keep what idle slots of another scheduler with as many sequences keep, and which was used last."""
        for mine, other in zip(self.slots, slots, strict=True):
            mine.fill(other.held, other.conditioning)
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
        slot.release(keep=False)
        return slot.seq_id

    def make_room(self) -> int | None:
        """The memory is full: the seq_id to clear, None when only one sequence is left and nothing can go.

        Tokens kept for reuse go first, the slot unused for longest before the others; then the newest sequence
        goes back to the queue, and nobody is admitted until another one ends.
        """
        seq_id = self.forget_oldest()
        if seq_id is not None:
            return seq_id
        if len(self.running) < 2:
            return None
        sequence = self.running[-1]
        seq_id = sequence.seq_id
        self.release(sequence, keep=False)
        sequence.n_past = 0
        self.waiting.appendleft(sequence)
        self._full = True
        return seq_id
