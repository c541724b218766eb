"""Many requests over one Context: submit, step, read. No thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager, contextmanager
from time import monotonic

from llama_cffi._util.fork import ForkedLock, after_fork
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.seed import draw_seed
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.outside_memory import OutsideMemory
from llama_cffi.engine.request import Request
from llama_cffi.engine.runner import Runner, SavedMemory
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import Admission, Scheduler, StepPlan, Work
from llama_cffi.engine.slots import Slot
from llama_cffi.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    ContextOverflowError,
    LlamaCffiError,
    MemoryFullError,
)
from llama_cffi.reply.completion import Chunk, FinishReason

_COARSE = 0.02
"""Seconds by which a decode may stop before its deadline: the clock that it looks at has a resolution of its own."""


class Engine(ProcessBound):
    """The one generation loop. Whoever wants a chunk drives it with :meth:`step`, also from several threads:
    a step computes for every sequence, and each reader finds its chunks in its own queue.
    """

    _instead_of_pickling = "make one over a Context in each process"
    _instead_of_copying = "any number of threads may use one; another one needs a Context of its own"

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._n_ctx = runner.n_ctx
        self._n_batch = runner.n_batch
        self._scheduler = Scheduler(runner.n_batch, runner.n_seq_max, can_copy=runner.can_copy, can_cut=runner.can_cut)
        self._lock: AbstractContextManager[object] = threading.RLock()
        # A thread that did not survive the fork may have been in the middle of a step.
        after_fork(self, Engine._refuse)
        self._decode_cost = DecodeCost()
        self._clock = runner.clock
        self._abandoned: deque[RunningSequence] = deque()
        self._timed: list[RunningSequence] = []
        """Those that a deadline may end."""
        self._outside = OutsideMemory(runner, self._scheduler)
        self._stepping = False

    def _refuse(self) -> None:
        self._lock = ForkedLock("Llama or Engine")

    def submit(self, request: Request) -> RunningSequence:
        """Queue a request; its chunks come out of :meth:`next_chunk`.

        Raises before anything is computed: :class:`ContextOverflowError` for a prompt longer than the context (with
        ``overflow="error"`` also for a prompt whose ``max_tokens`` cannot fit), :class:`UnsupportedError` for
        ``overflow="shift"`` and drafts on a memory that cannot, and what sampling parameters and adapters raise.
        """
        request.check_fits(self._runner)
        seed = request.sampling.seed if request.sampling.seed is not None else draw_seed()
        found = self._find_saved(request)
        with self._lock:
            drafting = None
            if request.speculative is not None:
                drafting = DraftController(
                    request.speculative.start(), self._runner.n_vocab, self._decode_cost, self._clock
                )
            pieces = self._runner.pieces(request.visible)
            sequence = RunningSequence(request, self._runner.sampler(request, seed), seed, pieces, drafting)
            if request.max_tokens == 0:
                sequence.finish(FinishReason.LENGTH)
            else:
                if found is not None and not self._stepping:
                    self._outside.recall(found, request.prompt)
                self._scheduler.submit(sequence)
                if sequence.deadline is not None:
                    self._timed.append(sequence)
        return sequence

    def next_chunk(self, sequence: RunningSequence) -> Chunk | None:
        """The next chunk of a sequence, computing as needed; None after the last one.

        Raises what made the sequence fail, once.
        """
        chunks = sequence.chunks
        while not chunks:
            if sequence.done:
                error, sequence.error = sequence.error, None
                if error is not None:
                    sequence.finish_reason = FinishReason.CANCELLED
                    raise error
                return None
            with self._lock:
                # Another thread's step may have brought the chunk while this one waited for the lock.
                if not chunks and not sequence.done:
                    self._step()
            if self._outside.unsaved:
                self._outside.store()
        return chunks.popleft()

    def cancel(self, sequence: RunningSequence) -> None:
        """End a sequence with what it has. Harmless when it is done."""
        self._end(sequence, FinishReason.CANCELLED)

    def _end(self, sequence: RunningSequence, reason: FinishReason) -> None:
        with self._lock:
            if not sequence.done:
                sequence.finish(reason)
                self._scheduler.release(sequence)

    def abandon(self, sequence: RunningSequence) -> None:
        """Cancel at the next step. Takes no lock: a garbage collection inside a step may call it."""
        self._abandoned.append(sequence)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._scheduler.waiting or self._scheduler.running)

    def use(self, conditioning: Conditioning) -> None:
        """Let go of other adapters than these when there is nothing to do; running requests keep their own."""
        with self._lock:
            self._cancel_abandoned()
            if self.idle:
                self._runner.use(conditioning)

    @contextmanager
    def at_rest(self) -> Iterator[list[Slot]]:
        """Keep the engine from computing, and yield its slots: all idle, and their memory holds what they say.

        The caller records changes of that memory in the slots with :meth:`Slot.fill`. Raises :class:`BusyError` when a
        request is waiting or running.
        """
        with self._lock:
            self._cancel_abandoned()
            if self._stepping or not self.idle:
                raise BusyError("requests are running: wait for them, or cancel them")
            self._stepping = True
            try:
                for slot in self._scheduler.slots:
                    # What a context shift has moved is in memory beyond what its slot holds.
                    if not self._runner.keep(slot.seq_id, slot.held.n_positions):
                        slot.fill()
                yield self._scheduler.slots
            finally:
                self._stepping = False

    def inherit(self, slots: Iterable[Slot]) -> None:
        """The memory of this new engine is a copy of another one's: it holds what that one's slots say."""
        with self._lock:
            self._scheduler.inherit(slots)

    def adopt(self, found: SavedMemory, conditioning: Conditioning = PLAIN) -> None:
        """Keep the memory of a sequence that was computed elsewhere, for the next request that begins like it.

        Raises :class:`BusyError` as :meth:`at_rest`, and :class:`MemoryFullError` when there is no room for it.
        """
        with self.at_rest() as slots:
            slot = min(slots, key=lambda slot: (len(slot.held) > 0, slot.last_used))
            reason = self._outside.bring(found, slot, conditioning)
            if reason is not None:
                raise MemoryFullError(f"no room for {len(found.prompt)} tokens in memory: {reason}")

    def step(self) -> bool:
        """Compute one batch and hand out its tokens; False when there was nothing to do.

        An error that belongs to one request ends that request only. One of the decode itself ends every request in
        the batch; what interrupts the caller (Ctrl-C) leaves all of them where they were.
        """
        with self._lock:
            stepped = self._step()
        if self._outside.unsaved:
            self._outside.store()
        return stepped

    def _step(self) -> bool:
        if self._stepping:
            raise BusyError("a signal handler or finalizer cannot generate in the middle of a step")
        self._stepping = True
        affected: SequenceOf[RunningSequence] = ()
        plan: StepPlan = []
        try:
            if self._abandoned:
                self._cancel_abandoned()
            if self._timed:
                self._end_late()
            lone = self._scheduler.lone
            if lone is not None and len(lone.cells) - lone.n_past == 1 and (step := lone.sampler.step) is not None:
                # What a single stream does nearly all the time, in this one frame: after a decode the weights have
                # pushed Python out of the caches, and every frame costs microseconds.
                affected = (lone,)
                drafting = lone.drafting
                draft = self._propose(lone, drafting, self._n_batch - 1) if drafting is not None else None
                if not draft:
                    position = lone.n_past
                    start = self._clock() if drafting is not None else 0.0
                    token = step(lone.cells[position], position + lone.offset, lone.seq_id)  # type: ignore[arg-type]
                    if token < 0:
                        lone.sampler.step_failed(token)
                    lone.n_past = position + 1
                    lone.accept(token)
                    if drafting is not None:
                        self._decode_cost.add(1, self._clock() - start)
                    if lone.done or lone.n_past >= self._n_ctx:
                        self._settle(lone)
                    return True
                plan, n_tokens = [Work(lone, 1, True, draft=draft)], 1
            else:
                plan, n_tokens = self._scheduler.plan(self._prepare), 0
                for i, work in enumerate(plan):
                    if work.n_draft and (drafting := work.sequence.drafting) is not None:
                        n_tokens = n_tokens or sum(one.n_tokens for one in plan)
                        # What goes wrong here is the one sequence's own.
                        affected = (work.sequence,)
                        draft = self._propose(work.sequence, drafting, work.n_draft, n_tokens - 1)
                        plan[i] = work._replace(draft=draft)
            if not plan:
                return False
            affected = [work.sequence for work in plan]
            # Until the tokens are chosen nobody else may write or free the logits.
            with self._runner.lock():
                start = self._clock()
                rows = self._runner.decode(plan, self._deadline(affected))
                for (sequence, n, output, _, found), row in zip(plan, rows, strict=True):
                    sequence.n_past += n
                    if output:
                        self._advance(sequence, row, found)
                if n_tokens == len(plan):  # somebody drafts, and there is no prefill: of that nobody asks what it takes
                    self._decode_cost.add(n_tokens + sum(len(work.draft) for work in plan), self._clock() - start)
            return True
        except LlamaCffiError as error:
            if not affected:
                raise
            if isinstance(error, MemoryFullError):
                self._make_room(error, plan)
            elif isinstance(error, AbortedError) and self._is_late(affected):
                # Who is not late computes the same tokens again.
                for sequence in affected:
                    self._rewind(sequence)
                self._end_late()
            else:
                for sequence in affected:
                    self._fail(sequence, error)
            return True
        except BaseException:
            self._scheduler.lone = None  # its plan may not have been computed, nor its adapters set
            # More may be in memory than the sequences know of: cut it back.
            for sequence in affected:
                self._rewind(sequence)
            raise
        finally:
            self._stepping = False

    def _cancel_abandoned(self) -> None:
        while self._abandoned:
            self.cancel(self._abandoned.popleft())

    def _end_late(self) -> None:
        now = monotonic() + _COARSE
        for sequence in self._timed:
            if sequence.deadline is not None and sequence.deadline <= now:
                self._end(sequence, FinishReason.DEADLINE)
        self._timed = [sequence for sequence in self._timed if not sequence.done]

    def _deadline(self, sequences: SequenceOf[RunningSequence]) -> float | None:
        if not self._timed:
            return None
        return min((sequence.deadline for sequence in sequences if sequence.deadline is not None), default=None)

    def _is_late(self, sequences: SequenceOf[RunningSequence]) -> bool:
        deadline = self._deadline(sequences)
        return deadline is not None and deadline <= monotonic() + _COARSE

    def _propose(
        self, sequence: RunningSequence, drafting: DraftController, n_max: int, n_others: int = 0
    ) -> list[int]:
        """A draft that fits the context, and what may still be generated: one token always comes after it."""
        cells, seq_id = sequence.cells, sequence.seq_id
        n_max = min(n_max, self._n_ctx - len(cells), sequence.n_left - 1)
        if n_max < 1 or seq_id is None:
            return []
        return drafting.propose(cells, n_max, seq_id=seq_id, n_others=n_others)

    def _advance(self, sequence: RunningSequence, row: int, draft: SequenceOf[int]) -> None:
        """Choose the token that follows ``row``, and as long as that is the draft's next one, the token after it."""
        try:
            token = self._choose(sequence, row)
            if draft and sequence.drafting is not None:
                n_accepted = 0
                while not sequence.done and n_accepted < len(draft) and token == draft[n_accepted]:
                    # What was chosen is in memory already, and the row behind it says what follows.
                    sequence.n_past += 1
                    n_accepted += 1
                    sequence.drafting.n_accepted += 1
                    token = self._choose(sequence, row + n_accepted)
                sequence.drafting.verified(n_accepted)
                if n_accepted < len(draft):
                    self._rewind(sequence)
            self._settle(sequence)
        except LlamaCffiError as error:
            self._fail(sequence, error)

    def _choose(self, sequence: RunningSequence, row: int) -> int:
        sampler, n_top = sequence.sampler, sequence.request.logprobs
        token = sampler.choose(row)
        sequence.accept(token, None if n_top is None else sampler.logprob(row, token, n_top))
        return token

    def _settle(self, sequence: RunningSequence) -> None:
        """After a token: make room for the next one, or give the slot back when there is none."""
        if not sequence.done and sequence.n_past >= self._n_ctx:
            self._overflow(sequence)
        if sequence.done:
            seq_id = sequence.seq_id
            self._scheduler.release(sequence)
            if seq_id is not None:
                self._outside.take(sequence, seq_id)

    def _find_saved(self, request: Request) -> SavedMemory | None:
        if request.conditioning or request.max_tokens == 0:
            return None
        with self._lock:
            choice = None if self._stepping else self._scheduler.spare(request.prompt)
        return None if choice is None else self._outside.find(request.prompt, choice[1])

    def _overflow(self, sequence: RunningSequence) -> None:
        """The sequence has filled its context and has one more token to compute."""
        policy = sequence.request.overflow
        n_ctx = self._n_ctx
        if policy == "error":
            raise ContextOverflowError(f"the text has filled the context of {n_ctx} tokens")
        if policy == "stop":
            sequence.finish(FinishReason.LENGTH)
            return
        # Keep the beginning of the prompt (BOS, instructions), forget the older half of the rest.
        n_keep = min(sequence.n_prompt, n_ctx // 4)
        n_drop = max(1, (n_ctx - n_keep) // 2)
        if sequence.seq_id is not None:
            self._runner.shift(sequence.seq_id, n_keep, n_drop)
        del sequence.cells[n_keep : n_keep + n_drop]
        sequence.n_past -= n_drop
        # What moved was computed with the forgotten tokens before it: no other prompt may take it for its own.
        sequence.n_exact = min(sequence.n_exact, n_keep)

    def _prepare(self, admission: Admission) -> int:
        slot, source, n = admission
        runner = self._runner
        if source is None:
            return n if runner.keep(slot.seq_id, slot.held.position(n)) else 0
        return n if runner.copy(source.seq_id, slot.seq_id, source.held.position(n)) else 0

    def _make_room(self, error: MemoryFullError, plan: StepPlan) -> None:
        drafting = [work.sequence.drafting for work in plan if work.draft]
        if drafting:
            # Nobody has to go for a guess.
            for one in drafting:
                if one is not None:
                    one.pause()
            return
        seq_id = self._scheduler.make_room()
        if seq_id is not None:
            self._runner.keep(seq_id, 0)
            return
        for sequence in tuple(self._scheduler.running):
            self._fail(sequence, error)

    def _rewind(self, sequence: RunningSequence) -> None:
        if sequence.seq_id is not None and not self._runner.keep(sequence.seq_id, sequence.position(sequence.n_past)):
            sequence.n_past = 0

    def _fail(self, sequence: RunningSequence, error: LlamaCffiError) -> None:
        seq_id = sequence.seq_id
        sequence.fail(error)
        self._scheduler.release(sequence, keep=False)
        # Of a closed context there is no memory left to clear.
        if seq_id is not None and not isinstance(error, ClosedError):
            self._runner.keep(seq_id, 0)


__all__ = ["Engine"]
