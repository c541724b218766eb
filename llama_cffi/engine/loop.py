"""The generation loop: the computation of one step, and the handling of its errors."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from itertools import count
from time import monotonic, perf_counter

from llama_cffi.core.conditioning import Conditioning
from llama_cffi.engine import busy_cpus
from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.host_cache import HostCache
from llama_cffi.engine.media_queue import MediaQueue
from llama_cffi.engine.outside_memory import OutsideMemory
from llama_cffi.engine.plan_drafts import draft_all, propose
from llama_cffi.engine.repair import is_own_error, repair
from llama_cffi.engine.runner import Runner, SavedMemory
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import Scheduler, StepPlan, Work
from llama_cffi.engine.telemetry import StepKind, Telemetry
from llama_cffi.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    ContextOverflowError,
    LlamaCffiError,
    MemoryFullError,
    NativeError,
    QueueTimeoutError,
)
from llama_cffi.reply.completion import FinishReason

_COARSE = 0.02
"""Seconds by which a decode may stop before its deadline: the clock that it looks at has a resolution of its own."""


class GenerationLoop:
    """Computes for every sequence that it was given, one step after another. One thread at a time may call it.

    ``changed`` collects the sequences with a listener that have new chunks or ended, for the caller to tell.
    """

    def __init__(self, runner: Runner, options: EngineOptions) -> None:
        self._runner = runner
        self._n_ctx, self._n_batch = runner.n_ctx, runner.n_batch
        # By the other clock every decode takes as long as any, so it decides nothing.
        self.clock: Callable[[], float] = count(0.0, 1.0).__next__ if options.reproducible else runner.clock
        self.cost = DecodeCost()
        self.scheduler = Scheduler(
            runner.n_batch,
            runner.n_ubatch,
            runner.n_seq_max,
            self.cost,
            can_copy=runner.can_copy,
            can_cut=runner.can_cut,
            can_pad=runner.can_pad,
            n_ctx=runner.n_ctx,
            n_cells=runner.n_cells,
            max_step_seconds=options.max_step_seconds,
            clock=self.clock,
        )
        self.media = MediaQueue(runner.encoder) if runner.encoder is not None else None
        self.scheduler.awaits = self.media.waits if self.media is not None else None
        host = HostCache(options.host_bytes, can_cut=runner.can_cut_saved)
        self.outside = OutsideMemory(runner, self.scheduler, host, self.cost)
        self.telemetry = Telemetry(options.on_event, busy_cpus.watch(runner, options))
        self.changed: list[RunningSequence] = []
        self.end_error: LlamaCffiError | None = None
        """Why everything ends: a decode that is aborted now ends with this error."""
        self.stepping = False
        """Whether a step runs, or the memory is in use by something else: no step may begin."""
        self._timed: list[RunningSequence] = []
        """Those that a deadline may end, or their patience."""
        self._patience = options.max_waiting_seconds or float("inf")

    @property
    def idle(self) -> bool:
        """Whether no sequence waits or runs."""
        return not (self.scheduler.waiting or self.scheduler.running)

    def add(self, sequence: RunningSequence, found: SavedMemory | None = None) -> None:
        """Queue a sequence, for whose prompt this was found outside the context. Harmless when it is there."""
        if sequence in self.scheduler.waiting:
            return
        self.telemetry.queued(sequence)
        if sequence.done:
            return
        try:
            if found is not None and not self.stepping:
                sequence.n_disk = self.outside.recall(found, sequence.request.prompt)
        except LlamaCffiError as error:
            self._fail(sequence, error)
            return
        if sequence.deadline is not None or self._patience < float("inf"):
            self._timed.append(sequence)
        self.scheduler.submit(sequence)

    def end(self, sequence: RunningSequence, reason: FinishReason) -> None:
        """End a sequence with what it has. Harmless when it is done, or when this was interrupted."""
        if not sequence.done or sequence.seq_id is not None:
            seq_id = sequence.seq_id
            sequence.finish(reason)
            self.scheduler.release(sequence)
            self.outside.clear(sequence, seq_id)
            self._note(sequence)
            self.telemetry.ended(sequence)

    def fail_all(self, error: LlamaCffiError) -> None:
        """End every sequence with an error."""
        for sequence in (*self.scheduler.running, *self.scheduler.waiting):
            self._fail(sequence, error)

    def use(self, conditioning: Conditioning) -> None:
        """Let go of other adapters than these when there is nothing to do; running requests keep their own."""
        if self.idle:
            self._runner.use(conditioning)

    def step(self) -> bool:
        """Compute one batch; False when there was nothing to do.

        An error that belongs to one request ends that request only. What interrupts the caller (Ctrl-C) leaves all of
        them where they were.
        """
        if self.stepping:
            raise BusyError("a signal handler or finalizer cannot generate in the middle of a step")
        self.stepping = True
        affected: SequenceOf[RunningSequence] = ()
        plan: StepPlan = []
        own: RunningSequence | None = None
        try:
            if self._timed:
                self._end_late()
            lone = self.scheduler.lone
            if lone is not None and len(lone.cells) - lone.n_past == 1 and (step := lone.sampler.step) is not None:
                # What a single stream does nearly all the time, in this one frame: after a decode the weights have
                # pushed Python out of the caches, and every frame costs microseconds.
                affected, own = (lone,), lone
                drafting = lone.drafting
                draft = propose(lone, drafting, self._n_batch - 1, self._n_ctx) if drafting is not None else None
                if not draft:
                    position = lone.n_past
                    start, began = self.clock(), perf_counter()
                    token = step(lone.cells[position], position + lone.offset, lone.seq_id)  # type: ignore[arg-type]
                    if token < 0:
                        lone.sampler.step_failed(token)
                    lone.n_past = position + 1
                    lone.accept(token)
                    self.cost.add(1, self.clock() - start)
                    self.telemetry.stepped_alone(began, lone)
                    if lone.done or lone.n_past >= self._n_ctx:
                        self._settle(lone)
                    if lone.listeners:
                        self.changed.append(lone)
                    return True
                plan = [Work(lone, 1, True, draft=draft)]
            else:
                plan = self.scheduler.plan(self.outside.prepare)
                for own in draft_all(plan, self._n_ctx, self.clock):
                    affected = (own,)  # what goes wrong now is the one sequence's own
            if not plan:
                return self.media is not None and self.media.rest(self.scheduler.running, self._deadline(self._timed))
            affected, own = [work.sequence for work in plan], None
            self._compute(plan)
            return True
        except LlamaCffiError as error:
            if not affected:
                raise
            try:
                self._after_error(error, affected, plan)
            except BaseException as interrupt:
                self._repair(affected, interrupt)
                raise
            return True
        except BaseException as error:
            if own is not None and is_own_error(error):
                self._fail(own, error)
                return True
            self._repair(affected, error)
            raise
        finally:
            self.stepping = False

    def _compute(self, plan: StepPlan) -> None:
        """Decode a plan and choose its tokens."""
        # Until the tokens are chosen, no other thread may write or free the logits.
        with self._runner.lock():
            start, began = self.clock(), perf_counter()
            rows = self._runner.decode(plan, self._deadline([work.sequence for work in plan]))
            for (sequence, n, output, _, found, _), row in zip(plan, rows, strict=True):
                if sequence.prompt_logprobs is not None:
                    self._report_prompt(sequence, row - n + 1, n)
                sequence.n_past += n
                if sequence.n_past in sequence.checkpoints:
                    self.outside.checkpoint(sequence, sequence.n_past)
                if output:
                    self._advance(sequence, row, found)
                    if sequence.listeners:
                        self.changed.append(sequence)
            self.scheduler.measured(plan, self.clock() - start)
            chosen = [work.sequence for work in plan if work.output]
            n_rows = sum(work.output and work.n_tokens == 1 for work in plan)
            kind: StepKind = "decode" if n_rows == len(plan) else "mixed" if n_rows else "prefill"
            self.telemetry.stepped(kind, began, chosen)

    # -- what goes wrong

    def _repair(self, affected: SequenceOf[RunningSequence], error: BaseException) -> None:
        torn = repair(self.scheduler, self._runner, affected, error)
        if torn is not None:
            self._note(torn)

    def _after_error(self, error: LlamaCffiError, affected: SequenceOf[RunningSequence], plan: StepPlan) -> None:
        if isinstance(error, AbortedError) and self.end_error is not None:
            error = self.end_error
        if isinstance(error, MemoryFullError):
            self._make_room(error, plan)
        elif isinstance(error, AbortedError) and self._is_late(affected):
            # Who is not late computes the same tokens again.
            for sequence in affected:
                self._rewind(sequence)
            self._end_late()
        elif len(affected) == 1 or isinstance(error, (ClosedError, NativeError)):
            for sequence in affected:
                self._fail(sequence, error)
        else:
            for sequence in affected:
                self._rewind(sequence)
            if isinstance(error, AbortedError):
                # An abort is meant for a long computation: it ends the longest one, and of equal ones the newest.
                longest = max(reversed(plan), key=lambda work: work.n_tokens)
                self._fail(longest.sequence, error)
            else:
                self._halve(plan)

    def _halve(self, plan: StepPlan) -> None:
        """Compute each half of a plan that failed by itself: in the end only that fails which fails alone."""
        middle = len(plan) // 2
        for half in (plan[:middle], plan[middle:]):
            # What could not be cut back to where it was begins again, in a later step.
            rest = [work._replace(draft=(), n_padding=0) for work in half if work.n_tokens <= work.sequence.n_pending]
            rest = [work for work in rest if work.output == (work.n_tokens == work.sequence.n_pending)]
            if not rest:
                continue
            try:
                self._compute(rest)
            except LlamaCffiError as error:
                self._after_error(error, [work.sequence for work in rest], rest)

    def _make_room(self, error: MemoryFullError, plan: StepPlan) -> None:
        # No sequence has to go for a draft.
        drafting = [one for work in plan if work.draft and (one := work.sequence.drafting) is not None]
        for one in drafting:
            one.pause()
        if drafting:
            return
        n_running = len(self.scheduler.running)
        seq_id = self.scheduler.make_room()
        if seq_id is not None:
            self._runner.keep(seq_id, 0)
            self.telemetry.preempted += n_running - len(self.scheduler.running)
            return
        for sequence in tuple(self.scheduler.running):
            self._fail(sequence, error)

    def _rewind(self, sequence: RunningSequence) -> None:
        if sequence.seq_id is not None:
            sequence.n_past = self._runner.rewind(sequence)

    def _fail(self, sequence: RunningSequence, error: BaseException) -> None:
        seq_id, done = sequence.seq_id, sequence.done
        sequence.fail(error)
        self.scheduler.release(sequence, keep=False)
        self._note(sequence)
        if not done:
            self.telemetry.ended(sequence)
        # Of a closed context there is no memory left to clear.
        if seq_id is not None and not isinstance(error, ClosedError):
            self._runner.keep(seq_id, 0)

    def _note(self, sequence: RunningSequence) -> None:
        if sequence.listeners:
            self.changed.append(sequence)

    # -- deadlines

    def _end_late(self) -> None:
        now = monotonic() + _COARSE
        for sequence in self._timed:
            if sequence.deadline is not None and sequence.deadline <= now:
                self.end(sequence, FinishReason.DEADLINE)
            elif not sequence.started and perf_counter() - sequence.created > self._patience:
                self._fail(sequence, QueueTimeoutError(f"waited {self._patience:g} seconds for its turn"))
        self._timed = [one for one in self._timed if not one.done and (one.deadline is not None or not one.started)]

    def _deadline(self, sequences: SequenceOf[RunningSequence]) -> float | None:
        found = (sequence.deadline for sequence in sequences if sequence.deadline is not None)
        return min(found, default=None) if self._timed else None

    def _is_late(self, sequences: SequenceOf[RunningSequence]) -> bool:
        deadline = self._deadline(sequences)
        return deadline is not None and deadline <= monotonic() + _COARSE

    # -- tokens

    def _advance(self, sequence: RunningSequence, row: int, draft: SequenceOf[int]) -> None:
        """Choose the token that follows ``row``, and as long as that is the draft's next one, the token after it."""
        try:
            if sequence.prefills:
                sequence.finish(FinishReason.LENGTH)
                self._settle(sequence)
                return
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
        except Exception as error:
            if not is_own_error(error):
                raise
            self._fail(sequence, error)

    def _choose(self, sequence: RunningSequence, row: int) -> int:
        sampler, n_top = sequence.sampler, sequence.request.logprobs
        token = sampler.choose(row)
        sequence.accept(token, None if n_top is None else sampler.logprob(row, token, n_top))
        return token

    def _report_prompt(self, sequence: RunningSequence, first: int, n: int) -> None:
        """Add the log-probabilities of the prompt's tokens that follow ``n`` rows from ``first`` on."""
        found, n_top = sequence.prompt_logprobs, sequence.request.prompt_logprobs
        if found is None or n_top is None:
            return
        for i, cell in enumerate(range(sequence.n_past + 1, sequence.n_past + 1 + n)):
            # What was computed before, and is computed again for another reason, is there already.
            if cell == len(found) < sequence.n_prompt:
                found.append(sequence.sampler.logprob(first + i, sequence.cells[cell], n_top))

    def _settle(self, sequence: RunningSequence) -> None:
        """After a token: make room for the next one, or give the slot back when there is none."""
        if not sequence.done and sequence.n_past >= self._n_ctx:
            self._overflow(sequence)
        if sequence.done:
            seq_id = sequence.seq_id
            self.scheduler.release(sequence)
            if seq_id is not None:
                self.outside.take(sequence, seq_id)
            self.telemetry.ended(sequence)

    def _overflow(self, sequence: RunningSequence) -> None:
        """The sequence has filled its context and has one more token to compute."""
        policy, n_ctx = sequence.request.overflow, self._n_ctx
        if policy == "error":
            raise ContextOverflowError(f"the text has filled the context of {n_ctx} tokens")
        if policy == "stop":
            sequence.finish(FinishReason.LENGTH)
            return
        # Keep the beginning of the prompt (BOS, instructions), forget the older half of the rest.
        n_keep = min(sequence.n_start, n_ctx // 4)
        n_drop = max(1, (n_ctx - n_keep) // 2)
        del sequence.cells[n_keep : n_keep + n_drop]
        if sequence.seq_id is not None:
            if sum(cells.n for cells in self.scheduler.slots[sequence.seq_id].shared) > n_keep:
                # What moves would move for those that share it, too: it is computed again instead.
                sequence.n_past = n_keep if self._runner.keep(sequence.seq_id, sequence.position(n_keep)) else 0
                self.scheduler.slots[sequence.seq_id].cut(n_keep)
                return
            self._runner.shift(sequence.seq_id, n_keep, n_drop)
        sequence.n_past -= n_drop
        # What moved was computed with the forgotten tokens before it: no other prompt may take it for its own.
        sequence.n_exact = min(sequence.n_exact, n_keep)


__all__ = ["GenerationLoop"]
