"""Many requests over one Context: submit, step, read. No thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_cffi.core.seed import draw_seed
from llama_cffi.engine.request import Chunk, FinishReason, Request
from llama_cffi.engine.runner import Remembered, Runner
from llama_cffi.engine.scheduler import Admission, Scheduler
from llama_cffi.engine.sequence import Sequence
from llama_cffi.engine.slots import Slot
from llama_cffi.errors import (
    BusyError,
    ClosedError,
    ContextOverflowError,
    LlamaCffiError,
    MemoryFullError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from llama_cffi.core.adapter import AdapterSet


class Engine:
    """The one generation loop. Whoever wants a chunk drives it with :meth:`step`, also from several threads:
    a step computes for every sequence, and each reader finds its chunks in its own queue.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._n_ctx = runner.n_ctx
        self._scheduler = Scheduler(runner.n_batch, runner.n_seq_max, can_copy=runner.can_copy, can_cut=runner.can_cut)
        self._lock = threading.RLock()
        self._abandoned: deque[Sequence] = deque()
        self._stepping = False

    def submit(self, request: Request) -> Sequence:
        """Queue a request; its chunks come out of :meth:`next_chunk`.

        Raises before anything is computed: :class:`ContextOverflowError` for a prompt longer than the context (with
        ``overflow="error"`` also for a prompt whose ``max_tokens`` cannot fit), :class:`UnsupportedError` for
        ``overflow="shift"`` on a memory that cannot, and what sampling parameters and adapters raise.
        """
        n_ctx, n_prompt = self._n_ctx, len(request.tokens)
        if n_prompt > n_ctx:
            raise ContextOverflowError(f"the prompt has {n_prompt} tokens; the context has room for {n_ctx}")
        if request.overflow == "error" and request.max_tokens is not None and n_prompt + request.max_tokens > n_ctx:
            raise ContextOverflowError(
                f"{n_prompt} prompt tokens and max_tokens={request.max_tokens} do not fit a context of {n_ctx}"
            )
        if request.overflow == "shift" and not self._runner.can_shift:
            raise UnsupportedError('overflow="shift": the memory of this model cannot shift positions')
        seed = request.sampling.seed if request.sampling.seed is not None else draw_seed()
        with self._lock:
            sequence = Sequence(
                request, self._runner.chooser(request, seed), seed, self._runner.pieces(request.visible)
            )
            if request.max_tokens == 0:
                sequence.finish(FinishReason.LENGTH)
            else:
                if not request.adapters:
                    self._recall(sequence.tokens)
                self._scheduler.submit(sequence)
        return sequence

    def next_chunk(self, sequence: Sequence) -> Chunk | None:
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
        return chunks.popleft()

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence with what it has. Harmless when it is done."""
        with self._lock:
            if not sequence.done:
                sequence.finish(FinishReason.CANCELLED)
                self._scheduler.release(sequence)

    def abandon(self, sequence: Sequence) -> None:
        """Cancel at the next step. Takes no lock: a garbage collection inside a step may call it."""
        self._abandoned.append(sequence)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._scheduler.waiting or self._scheduler.running)

    def use_adapters(self, adapters: AdapterSet) -> None:
        """Let go of other adapters than these when there is nothing to do; running requests keep their own."""
        with self._lock:
            self._cancel_abandoned()
            if self.idle:
                self._runner.use(adapters)

    @contextmanager
    def at_rest(self) -> Iterator[list[Slot]]:
        """Keep the engine from computing, and yield its slots: all idle, and their memory holds what they say.

        Who changes that memory tells the slots with :meth:`Slot.fill`. Raises :class:`BusyError` when a request is
        waiting or running.
        """
        with self._lock:
            self._cancel_abandoned()
            if self._stepping or not self.idle:
                raise BusyError("requests are running: wait for them, or cancel them")
            self._stepping = True
            try:
                for slot in self._scheduler.slots:
                    # What a context shift has moved is in memory beyond the tokens of its slot.
                    if not self._runner.keep(slot.seq_id, len(slot.tokens)):
                        slot.fill(())
                yield self._scheduler.slots
            finally:
                self._stepping = False

    def adopt(self, found: Remembered, adapters: AdapterSet = ()) -> None:
        """Keep the memory of a sequence that was computed elsewhere, for the next request that begins like it.

        Raises :class:`BusyError` as :meth:`at_rest`, and :class:`MemoryFullError` when there is no room for it.
        """
        with self.at_rest() as slots:
            slot = min(slots, key=lambda slot: (len(slot.tokens) > 0, slot.last_used))
            reason = self._bring(found, slot, adapters)
            if reason is not None:
                raise MemoryFullError(f"no room for {len(found.tokens)} tokens in memory: {reason}")

    def step(self) -> bool:
        """Compute one batch and hand out its tokens; False when there was nothing to do.

        An error that belongs to one request ends that request only. One of the decode itself ends every request in
        the batch; what interrupts the caller (Ctrl-C) leaves all of them where they were.
        """
        with self._lock:
            return self._step()

    def _step(self) -> bool:
        if self._stepping:
            raise BusyError("a signal handler or finalizer cannot generate in the middle of a step")
        self._stepping = True
        affected: SequenceOf[Sequence] = ()
        try:
            if self._abandoned:
                self._cancel_abandoned()
            lone = self._scheduler.lone
            if lone is not None and len(lone.tokens) - lone.n_past == 1 and (step := lone.chooser.step) is not None:
                # What a single stream does nearly all the time, in this one frame: after a decode the weights have
                # pushed Python out of the caches, and every frame costs microseconds.
                affected = (lone,)
                position = lone.n_past
                token = step(lone.tokens[position], position, lone.seq_id)  # type: ignore[arg-type]
                if token < 0:
                    lone.chooser.step_failed(token)
                lone.n_past = position + 1
                lone.accept(token)
                if lone.done or lone.n_past >= self._n_ctx:
                    self._settle(lone)
                return True
            plan = self._scheduler.plan(self._prepare)
            if not plan:
                return False
            affected = [sequence for sequence, _, _ in plan]
            # Until the tokens are chosen nobody else may write or free the logits.
            with self._runner.lock():
                for (sequence, n_tokens, output), row in zip(plan, self._runner.decode(plan), strict=True):
                    sequence.n_past += n_tokens
                    if output:
                        self._advance(sequence, row)
            return True
        except LlamaCffiError as error:
            if not affected:
                raise
            if isinstance(error, MemoryFullError):
                self._make_room(error)
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

    def _advance(self, sequence: Sequence, row: int) -> None:
        try:
            token = sequence.chooser.choose(row)
            n_top = sequence.request.logprobs
            logprob = None if n_top is None else sequence.chooser.logprob(row, token, n_top)
            sequence.accept(token, logprob)
            self._settle(sequence)
        except LlamaCffiError as error:
            self._fail(sequence, error)

    def _settle(self, sequence: Sequence) -> None:
        """After a token: make room for the next one, or give the slot back when there is none."""
        if not sequence.done and sequence.n_past >= self._n_ctx:
            self._overflow(sequence)
        if sequence.done:
            seq_id = sequence.seq_id
            self._scheduler.release(sequence)
            # What is kept outside is for requests without adapters.
            if seq_id is not None and not sequence.request.adapters:
                self._runner.remember(seq_id, self._scheduler.slots[seq_id].tokens)

    def _recall(self, tokens: list[int]) -> None:
        """Bring a remembered beginning of a prompt into an idle slot, when it is longer than what is in memory."""
        if self._stepping or (choice := self._scheduler.spare(tokens)) is None:
            return
        slot, held = choice
        found = self._runner.find(tokens, held)
        if found is not None:
            self._bring(found, slot)

    def _bring(self, found: Remembered, slot: Slot, adapters: AdapterSet = ()) -> str | None:
        """Put remembered memory into an idle slot; others give up what they keep when there is no room.

        Returns why there is none even then.
        """
        slot.fill(())
        while (reason := self._runner.recall(slot.seq_id, found)) is not None:
            seq_id = self._scheduler.forget_oldest()
            if seq_id is None:
                return reason
            self._runner.keep(seq_id, 0)
        slot.fill(found.tokens, adapters)
        return None

    def _overflow(self, sequence: Sequence) -> None:
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
        del sequence.tokens[n_keep : n_keep + n_drop]
        sequence.n_past -= n_drop
        # What moved was computed with the forgotten tokens before it: no other prompt may take it for its own.
        sequence.n_exact = min(sequence.n_exact, n_keep)

    def _prepare(self, admission: Admission) -> int:
        slot, source, n = admission
        runner = self._runner
        if source is None:
            return n if runner.keep(slot.seq_id, n) else 0
        return n if runner.copy(source.seq_id, slot.seq_id, n) else 0

    def _make_room(self, error: MemoryFullError) -> None:
        seq_id = self._scheduler.make_room()
        if seq_id is not None:
            self._runner.keep(seq_id, 0)
            return
        for sequence in tuple(self._scheduler.running):
            self._fail(sequence, error)

    def _rewind(self, sequence: Sequence) -> None:
        if sequence.seq_id is not None and not self._runner.keep(sequence.seq_id, sequence.n_past):
            sequence.n_past = 0

    def _fail(self, sequence: Sequence, error: LlamaCffiError) -> None:
        seq_id = sequence.seq_id
        sequence.fail(error)
        self._scheduler.release(sequence, keep=False)
        # Of a closed context there is no memory left to clear.
        if seq_id is not None and not isinstance(error, ClosedError):
            self._runner.keep(seq_id, 0)


__all__ = ["Engine"]
