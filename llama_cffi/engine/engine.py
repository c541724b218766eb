"""Many requests over one Context: submit, read, cancel, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from llama_cffi._native import shutdown
from llama_cffi._util.fork import after_fork
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.seed import draw_seed
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.inbox import Inbox
from llama_cffi.engine.loop import GenerationLoop
from llama_cffi.engine.request import Request
from llama_cffi.engine.runner import Runner, SavedMemory
from llama_cffi.engine.running_sequence import Listener, RunningSequence
from llama_cffi.engine.slots import Slot
from llama_cffi.engine.snapshot import EngineSnapshot, SlotSnapshot
from llama_cffi.engine.turn import Turn
from llama_cffi.engine.waiter import Waiter
from llama_cffi.engine.worker import Worker
from llama_cffi.errors import BusyError, ClosedError, EngineFailedError, LlamaCffiError, MemoryFullError
from llama_cffi.reply.completion import Chunk, FinishReason

_get_ident = threading.get_ident


class Engine(ProcessBound):
    """The generation loop over one Context.

    With the driver ``"inline"`` the threads that wait for chunks compute: one of them computes a step for all, the
    others sleep until they have a chunk. With ``"thread"`` a separate thread computes, from the first request on. In
    both cases :meth:`submit` and :meth:`cancel` only leave a note for the next step, and do not wait for a decode.
    """

    _instead_of_pickling = "create one over a Context in each process"
    _instead_of_copying = "any number of threads may use one; another one needs another Context"

    def __init__(self, runner: Runner, options: EngineOptions | None = None) -> None:
        self._runner = self.room = runner
        self._options = options = options if options is not None else EngineOptions()
        self._loop = loop = GenerationLoop(runner, options)
        self._scheduler, self.outside = loop.scheduler, loop.outside
        self._turn = Turn()
        self._inbox = Inbox(loop, options)
        self._forked = False
        self._threaded = options.driver == "thread"
        self._worker: Worker | None = None
        # A thread that did not survive the fork may have been in the middle of a step.
        after_fork(self, Engine._refuse)

    def _refuse(self) -> None:
        self._turn.forked()
        self._inbox.forked()
        self._worker, self._forked = None, True

    # -- requests

    def submit(self, request: Request, listener: Listener | None = None) -> RunningSequence:
        """Queue a request; :meth:`next_chunk` returns its chunks.

        ``listener`` is called with a list of the sequences that have new chunks, on the thread that computes, after
        each step, and must neither wait nor raise. After :class:`QueueFullError` it is called once, with an empty list,
        when fewer requests wait.

        Raises before anything is computed: :class:`ContextOverflowError` for a prompt longer than the context (with
        ``overflow="error"`` also for a prompt whose ``max_tokens`` cannot fit), :class:`UnsupportedError` for
        ``overflow="shift"`` with a memory that cannot shift, :class:`QueueFullError`, and the errors of sampling
        parameters and adapters.
        """
        runner = self._runner
        request.check_fits(runner)
        self._inbox.check_room(request, listener)
        seed = request.sampling.seed if request.sampling.seed is not None else draw_seed()
        drafting = None
        if request.speculative is not None:
            loop, drafter = self._loop, request.speculative.start()
            drafting = DraftController(drafter, runner.n_vocab, loop.cost, loop.clock, n_rollback=runner.n_rollback)
        found, pieces = self._find_saved(request), runner.pieces(request.visible)
        sequence = RunningSequence(request, runner.sampler(request, seed), seed, pieces, drafting, runner.decoder_start)
        if self._options.host_bytes and sequence.reuse:
            sequence.checkpoints = runner.checkpoints(request.prompt)
        if listener is not None:
            sequence.listeners = (listener,)
        media = self._loop.media
        if media is not None and request.prompt.media:
            media.prefetch(sequence, self.outside.prompts(request.conditioning, found))
        try:
            self._inbox.submit(sequence, found)
        except LlamaCffiError:
            sequence.sampler.close()
            raise
        if media is not None:
            media.wake()
        if self._threaded:
            self._wake_worker()
        return sequence

    def _find_saved(self, request: Request) -> SavedMemory | None:
        if request.conditioning or request.prompt_logprobs is not None or not request.reuse:
            return None
        # Without the lock, so that it does not wait for a decode: what is found is compared again when it is used.
        choice = self._scheduler.spare(request.prompt)
        return None if choice is None else self.outside.find(request.prompt, choice[1])

    def poll(self, sequence: RunningSequence) -> Chunk | None:
        """Return the next chunk of a sequence if there is one, without computing or waiting.

        Raises the error of the sequence, once, after its last chunk.
        """
        try:
            return sequence.chunks.popleft()
        except IndexError:
            if sequence.error is not None and sequence.done and not sequence.chunks:
                self._raise(sequence)
            return None

    def _raise(self, sequence: RunningSequence) -> None:
        error, sequence.error = sequence.error, None
        if error is not None:
            sequence.finish_reason = FinishReason.CANCELLED
            raise error

    def next_chunk(self, sequence: RunningSequence) -> Chunk | None:
        """Return the next chunk of a sequence, and compute if needed; None after the last one.

        Raises the error of the sequence, once.
        """
        chunks, turn = sequence.chunks, self._turn
        while True:
            if chunks:
                try:
                    return chunks.popleft()
                except IndexError:  # another thread reads the same sequence
                    continue
            if sequence.done:
                if chunks:  # the last one came between these two looks
                    continue
                self._raise(sequence)
                return None
            if self._threaded or turn.holder:
                self._follow(sequence)
                continue
            if turn.guests:
                turn.let_guests()
            # As step() does, in this frame: it is what a lone stream does for each token.
            loop = self._loop
            try:
                with turn.lock:
                    turn.holder = _get_ident()
                    try:
                        if self._inbox.notes:
                            self._inbox.take()
                        # Another thread's step may have brought the chunk meanwhile.
                        if not chunks and not sequence.done:
                            loop.step()
                    finally:
                        turn.holder = 0
            except BaseException:
                turn.pass_on()
                raise
            if loop.changed or turn.line or loop.outside.unsaved or self._inbox.notes:
                self._after_step()

    def hold(self, sequence: RunningSequence, *, chunks: bool = False) -> None:
        """Say that nothing of a text is passed on before its end; see :meth:`RemoteEngine.hold`."""

    def cancel(self, sequence: RunningSequence) -> None:
        """End a sequence as it is, before the next step. Has no effect when the sequence has ended."""
        if not sequence.done:
            sequence.unwanted = True
            self._inbox.put(partial(self._loop.end, sequence, FinishReason.CANCELLED))
            if self._loop.media is not None:
                self._loop.media.wake()
            self._settle_inbox()

    def abandon(self, sequence: RunningSequence) -> None:
        """Cancel before the next step. Takes no lock: a garbage collection inside a step may call it."""
        sequence.unwanted = True
        self._inbox.put(partial(self._loop.end, sequence, FinishReason.CANCELLED))
        if self._worker is not None:
            self._worker.ring()

    @property
    def waiting(self) -> tuple[RunningSequence, ...]:
        """The sequences that wait for a slot."""
        return self._inbox.waiting

    @property
    def idle(self) -> bool:
        """Whether no request waits or runs."""
        return self._loop.idle and not self._inbox.submitted

    def snapshot(self) -> EngineSnapshot:
        """Count what runs and waits. Any thread may call it, and it does not wait for a decode."""
        failed = isinstance(self._inbox.end, EngineFailedError)
        loop = self._loop
        return EngineSnapshot.of(self._scheduler, self.waiting, loop.telemetry, loop.outside.counts(), failed=failed)

    def slots(self) -> tuple[SlotSnapshot, ...]:
        """Say what each slot holds and computes. As :meth:`snapshot`."""
        return tuple(SlotSnapshot.of(slot) for slot in self._scheduler.slots)

    # -- computing

    def step(self) -> bool:
        """Compute one batch and deliver its tokens; return False when there was nothing to do.

        An error of one request ends that request only. A decode that fails is repeated in halves, and ends the requests
        that fail alone; an interrupt of the caller (Ctrl-C) leaves all requests unchanged.
        """
        turn = self._turn
        turn.check_not_inside()
        if turn.guests:
            turn.let_guests()
        try:
            with turn.lock:
                turn.holder = _get_ident()
                try:
                    self._inbox.take()
                    stepped = self._loop.step()
                finally:
                    turn.holder = 0
        except BaseException:
            turn.pass_on()
            raise
        self._after_step()
        return stepped

    def start_worker(self) -> None:
        """Compute on a separate thread from now on."""
        self._threaded = True
        self._wake_worker()

    def _wake_worker(self) -> None:
        worker = self._worker
        if worker is None or worker.ended:
            with self._inbox.door:
                if self._inbox.end is not None:
                    return
                worker = self._worker
                if worker is None or worker.ended:
                    self._worker = worker = Worker(self.step, self._fail)
        worker.ring()

    def _follow(self, sequence: RunningSequence) -> None:
        """Wait until another thread has computed something for a sequence, or leaves the loop to this one."""
        turn, waiter = self._turn, Waiter()
        turn.check_not_inside()
        sequence.listeners += (waiter.wake,)
        if not self._threaded:
            turn.line.append(waiter)
        try:
            if sequence.chunks or sequence.done:
                return
            if self._threaded:
                self._wake_worker()
                if self._inbox.end is not None:
                    self._fail(self._inbox.end)
                waiter.wait()
            elif turn.holder:
                waiter.wait()
            if shutdown.begun():
                shutdown.refuse()
        finally:
            sequence.listeners = tuple(one for one in sequence.listeners if one != waiter.wake)
            turn.leave_line(waiter)

    def _settle_inbox(self) -> None:
        """Process the inbox, unless a computing thread will do it before the next step."""
        if self._worker is not None:
            self._worker.ring()
        elif not self._turn.holder:
            with self._turn.lock:
                if self._turn.holder:
                    return
                self._inbox.take()
            self._tell()

    def _after_step(self) -> None:
        if self._loop.changed:
            self._tell()
        self._turn.pass_on()
        if self.outside.unsaved:
            self.outside.store()
        if not self._threaded and self._inbox.notes:
            self._settle_inbox()

    def _tell(self) -> None:
        changed, self._loop.changed = self._loop.changed, []
        told: dict[Listener, list[RunningSequence]] = {}
        for sequence in changed:
            for listener in sequence.listeners:
                told.setdefault(listener, []).append(sequence)
        for listener, sequences in told.items():
            listener(sequences)

    # -- everything but steps

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """Have the loop for oneself, before the next step. What is in the inbox is done first."""
        with self._turn.between_steps() as entered:
            if entered:
                self._inbox.take()
            yield
        if entered:
            self._after_step()

    def use(self, conditioning: Conditioning) -> None:
        """Let go of other adapters than these when there is nothing to do; running requests keep their own."""
        with self._between_steps():
            self._loop.use(conditioning)

    @contextmanager
    def at_rest(self, seq_id: int | None = None) -> Iterator[list[Slot]]:
        """Keep the engine from computing, and yield its slots: all idle, and their memory holds what they say.

        The caller records changes of that memory in the slots with :meth:`Slot.fill`. With ``seq_id`` only that slot is
        yielded, and others may be in use. Raises :class:`BusyError` when a request is waiting or running, or in that
        slot.
        """
        loop, slots = self._loop, self._scheduler.slots
        slots = slots if seq_id is None else [slots[seq_id]]
        with self._between_steps():
            if loop.stepping or (not loop.idle if seq_id is None else slots[0].sequence is not None):
                raise BusyError("requests are running: wait for them, or cancel them")
            loop.stepping = True
            try:
                for slot in slots:
                    # What a context shift has moved is in memory beyond what its slot holds.
                    if not self._runner.keep(slot.seq_id, slot.held.n_positions):
                        slot.fill()
                yield slots
            finally:
                loop.stepping = False

    def inherit(self, slots: Iterable[Slot]) -> None:
        """The memory of this new engine is a copy of another one's: it holds what that one's slots say."""
        with self._between_steps():
            self._scheduler.inherit(slots)

    def adopt(self, found: SavedMemory, conditioning: Conditioning = PLAIN, seq_id: int | None = None) -> None:
        """Keep the memory of a sequence that was computed elsewhere, for the next request that begins like it.

        Raises :class:`BusyError` as :meth:`at_rest`, and :class:`MemoryFullError` when there is no room for it: the
        slot then holds what it held, if that still fits without sharing cells with others.
        """
        with self.at_rest(seq_id) as slots:
            slot = min(slots, key=lambda slot: (len(slot.held) > 0, slot.last_used))
            reason = self.outside.exchange(found, slot, conditioning)
            if reason is not None:
                raise MemoryFullError(f"no room for {len(found.prompt)} tokens in memory: {reason}")

    # -- the end

    def retire(self) -> None:
        """Let the worker's thread end when there is nothing left to do; a later request starts another one."""
        if self._worker is not None:
            self._worker.retire()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """End every request with :class:`ClosedError`, and the worker's thread.

        The body closes the Context, which cuts short what is computed. What it raises leaves the engine as it was.
        """
        if self._forked:
            yield
            return
        error = ClosedError("this Llama or Engine is closed")
        self._inbox.close(error)
        try:
            yield
        except BaseException:
            self._inbox.reopen(error)
            raise
        if self._worker is not None:
            self._worker.stop()
        self._fail(error)

    def close(self) -> None:
        """End every request with :class:`ClosedError`, after the running step. May be called repeatedly."""
        with self.closing():
            pass

    def _fail(self, error: LlamaCffiError) -> None:
        """End every request with an error, and take no more."""
        self._inbox.close(error)
        with self._between_steps():
            if not self._loop.stepping:  # a step that runs will find everything closed
                self._loop.fail_all(self._inbox.end or error)  # the first one is why


__all__ = ["Engine"]
