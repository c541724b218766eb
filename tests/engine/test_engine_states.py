"""Any order of calls of an engine, with decodes that fail: every request ends once, with its own text.

``pytest -m fuzz`` searches for ``LLAMA_CFFI_FUZZ_SECONDS`` (default 20) instead of a few examples.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeMemory
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    DecodeError,
    MemoryFullError,
    QueueFullError,
    SamplerError,
)
from llama_cffi.reply.completion import Chunk, Completion, FinishReason
from tests.support.faulty_runner import FaultyRunner, TestClock

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "20"))
N_CTX = 40
MAX_WAITING = 4
SETS: list[Any] = [(("a", 1.0),), (("b", 0.5),)]
ADAPTERS: list[Any] = [PLAIN, PLAIN, *map(Conditioning, SETS)]

prompts = st.lists(st.integers(0, 2), min_size=1, max_size=30)


@dataclass(eq=False)
class Job:
    """A request and what its reader has seen of it."""

    sequence: RunningSequence
    request: Request
    shifts: bool
    text: str = ""
    completion: Completion | None = None
    error: BaseException | None = None
    ended: bool = False
    may_fail: bool = False
    may_be_cut: bool = False

    def __repr__(self) -> str:
        return f"<Job {list(self.request.prompt)}>"

    def take(self, chunk: Chunk | None) -> None:
        """A reader got this."""
        if chunk is None:
            assert self.completion is not None or self.error is not None, "it ended without an end"
            self.ended = True
            return
        assert self.completion is None, "a chunk came after the last one"
        self.text += chunk.text
        self.completion = chunk.completion

    def fail(self, error: BaseException) -> None:
        """A reader got an error."""
        assert self.error is None, "the error came twice"
        assert self.completion is None, "an error came after the completion"
        assert self.may_fail, f"it failed for no reason: {error!r}"
        self.error, self.ended = error, True

    def check_text(self) -> None:
        """What came is what the request gives alone, up to where it was cut."""
        output, request = self.sequence.output, self.request
        n = len(output) if not self.shifts else min(len(output), N_CTX + 1 - len(request.prompt))
        most = request.max_tokens if request.max_tokens is not None else 10**6
        alone = FaultyRunner.expected(request.prompt, most, N_CTX, request.conditioning)
        assert output[:n] == alone[:n]
        if self.error is not None:
            return
        completion = self.completion
        assert completion is not None
        assert list(completion.tokens) == output
        assert completion.text == self.text
        if completion.finish_reason in (FinishReason.CANCELLED, FinishReason.DEADLINE):
            assert self.may_be_cut, f"it was cut for no reason: {completion.finish_reason}"
        elif not self.shifts:
            assert output == alone


class EngineStates(RuleBasedStateMachine):
    """One thread that does what many do, in every order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = TestClock()
        self.stack.enter_context(self.clock.installed())
        self.jobs: list[Job] = []
        self.left: list[Job] = []
        """Those whose reader has vanished."""
        self.now_told: list[RunningSequence] = []

    @initialize(
        n_batch=st.integers(1, 12),
        n_slots=st.integers(1, 4),
        n_cells=st.integers(N_CTX + 2, 120),
        bounded=st.booleans(),
    )
    def begin(self, n_batch: int, n_slots: int, n_cells: int, bounded: bool) -> None:
        self.runner = FaultyRunner(n_batch=n_batch, n_ctx=N_CTX, n_seq_max=n_slots, n_cells=n_cells)
        self.bounded = bounded
        options = EngineOptions(max_waiting=MAX_WAITING) if bounded else EngineOptions()
        self.engine = Engine(self.runner, options)

    # -- requests

    @rule(
        prompt=prompts,
        max_tokens=st.one_of(st.none(), st.integers(0, 20)),
        seconds=st.one_of(st.none(), st.floats(0.5, 30)),
        conditioning=st.sampled_from(ADAPTERS),
        drafts=st.booleans(),
        listens=st.booleans(),
        shifts=st.booleans(),
        priority=st.integers(-2, 2),
        reuse=st.booleans(),
        slot=st.one_of(st.none(), st.integers(0, 3)),
    )
    def submit(
        self,
        prompt: list[int],
        max_tokens: int | None,
        seconds: float | None,
        conditioning: Conditioning,
        drafts: bool,
        listens: bool,
        shifts: bool,
        priority: int,
        reuse: bool,
        slot: int | None,
    ) -> None:
        options: dict[str, Any] = {"priority": priority, "reuse": reuse}
        if slot is not None and slot < self.runner.n_seq_max:
            options["slot"] = slot
        if shifts and max_tokens is not None:
            options["overflow"] = "shift"
        request = Request(
            prompt=Prompt(prompt),
            max_tokens=max_tokens,
            max_seconds=seconds,
            conditioning=conditioning,
            speculative=PromptLookup(min_ngram=1) if drafts else None,
            **options,
        )
        waiting = len(self.engine.waiting)
        if self.bounded and waiting >= MAX_WAITING:
            with pytest.raises(QueueFullError) as caught:
                self.engine.submit(request)
            assert 1 <= caught.value.retry_after <= 60
            return
        sequence = self.engine.submit(request, self.now_told.extend if listens else None)
        failing = bool(self.runner.next_errors)
        self.jobs.append(Job(sequence, request, shifts, may_fail=failing, may_be_cut=seconds is not None))

    def pick(self, data: st.DataObject) -> Job:
        return data.draw(st.sampled_from(self.jobs), label="job")

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), n=st.integers(1, 6))
    def read(self, data: st.DataObject, n: int) -> None:
        job = self.pick(data)
        for _ in range(n):
            if not job.ended:
                self.next_of(job, self.engine.next_chunk)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        job = self.pick(data)
        if job.completion is None and job.error is None:
            self.next_of(job, lambda one: self.engine.poll(one), at_end=False)

    def next_of(self, job: Job, take: Callable[[RunningSequence], Chunk | None], *, at_end: bool = True) -> None:
        try:
            chunk = take(job.sequence)
        except (DecodeError, SamplerError, AbortedError, ClosedError) as error:
            job.fail(error)
            return
        except KeyboardInterrupt:
            return
        if chunk is not None or at_end:
            job.take(chunk)

    @rule(n=st.integers(1, 8))
    def step(self, n: int) -> None:
        for _ in range(n):
            try:
                if not self.engine.step():
                    assert self.engine.idle, "a step did nothing though something waits"
            except KeyboardInterrupt:
                pass

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.pick(data)
        job.may_be_cut = True
        self.engine.cancel(job.sequence)
        # Nothing computes now, so that it has happened.
        assert job.sequence.done
        assert job.sequence.seq_id is None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        job = self.pick(data)
        job.may_be_cut = True
        self.engine.abandon(job.sequence)
        self.jobs.remove(job)
        self.left.append(job)

    # -- what goes wrong

    @rule(seconds=st.floats(0.1, 20))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), unsure=st.booleans())
    def spoil(self, data: st.DataObject, unsure: bool) -> None:
        job = self.pick(data)
        job.may_fail = True
        (self.runner.unsure if unsure else self.runner.poisoned).add(id(job.request))

    @rule(n=st.integers(1, 2), aborts=st.booleans())
    def fail_next(self, n: int, aborts: bool) -> None:
        """Whoever is in the batch may fail, but a decode that is repeated and succeeds ends nothing."""
        error = AbortedError("abort() was called") if aborts else DecodeError("once", code=-3)
        self.runner.next_errors.extend([error] * n)
        for job in (*self.jobs, *self.left):
            job.may_fail = True

    @rule()
    def interrupt_next(self) -> None:
        self.runner.next_errors.append(KeyboardInterrupt())

    # -- between steps

    @rule()
    def rest(self) -> None:
        try:
            with self.engine.at_rest() as slots:
                assert all(slot.sequence is None for slot in slots)
                for slot in slots:
                    assert self.runner.memory[slot.seq_id] == FaultyRunner.cells(slot.held, slot.conditioning)
        except BusyError:
            assert not self.engine.idle

    @rule(data=st.data(), prompt=st.one_of(st.none(), prompts))
    def change_one_slot(self, data: st.DataObject, prompt: list[int] | None) -> None:
        """Empty an idle slot, or bring a prompt into it, while others may be in use."""
        seq_id = data.draw(st.integers(0, self.runner.n_seq_max - 1), label="slot")
        slot = self.engine._scheduler.slots[seq_id]
        before, was_used, shared = (slot.held, slot.conditioning), slot.sequence is not None, bool(slot.shared)
        try:
            if prompt is None:
                with self.engine.at_rest(seq_id) as (one,):
                    assert one is slot
                    one.fill()
                    self.runner.keep(seq_id, 0)
                return
            self.engine.adopt(FakeMemory(Prompt(prompt)), PLAIN, seq_id)
            assert slot.held == tuple(prompt)
        except BusyError:
            assert was_used
            assert slot.sequence is not None
        except MemoryFullError:
            # Cells that it had in common with others are its own when they come back, and may find no room.
            assert (slot.held, slot.conditioning) == before or (shared and not slot.held)

    @rule(conditioning=st.sampled_from(ADAPTERS))
    def use(self, conditioning: Conditioning) -> None:
        self.engine.use(conditioning)

    # -- what always holds

    @invariant()
    def memory_is_what_slots_say(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler = self.engine._scheduler
        running = list(scheduler.running)
        assert sorted(one.seq_id for one in running) == sorted(  # type: ignore[type-var]
            slot.seq_id for slot in scheduler.slots if slot.sequence is not None
        )
        for slot in scheduler.slots:
            memory = self.runner.memory[slot.seq_id]
            if slot.sequence is None:
                held = FaultyRunner.cells(slot.held, slot.conditioning)
                assert memory[: len(held)] == held
                # A context shift leaves more, which the next one in the slot or a full memory clears.
                assert memory == held or held or any(job.shifts for job in (*self.jobs, *self.left))
            else:
                sequence = slot.sequence
                assert not sequence.done
                assert sequence.seq_id == slot.seq_id
                assert memory == FaultyRunner.cells(sequence.cells[: sequence.n_past], slot.conditioning)
        assert not any(one.done for one in scheduler.waiting)
        assert len(set(map(id, (*running, *scheduler.waiting)))) == len(running) + len(scheduler.waiting)
        if self.bounded:
            # Those that were put off wait too.
            assert len(self.engine.waiting) <= MAX_WAITING + len(scheduler.slots)
        assert self.runner.largest <= self.runner.n_batch

    def teardown(self) -> None:
        try:
            if hasattr(self, "engine"):
                self.finish()
        finally:
            self.stack.close()

    def finish(self) -> None:
        runner, engine = self.runner, self.engine
        runner.next_errors.clear()
        # Others come all the time, and none of those that are there waits for ever.
        most = 60 + 6 * sum(len(job.request.prompt) + 24 for job in (*self.jobs, *self.left))
        steps = 0
        while any(not job.sequence.done for job in (*self.jobs, *self.left)):
            steps += 1
            for job in (*self.jobs, *self.left):
                if job.request.max_tokens is None and len(job.sequence.output) > N_CTX:
                    raise AssertionError("a text grows beyond the context")
            assert steps < most, f"something starves after {steps} steps"
            if steps % 2 and len(engine.waiting) < MAX_WAITING:
                engine.submit(Request(prompt=Prompt((steps % 3,)), max_tokens=1))
            engine.step()
        for job in (*self.jobs, *self.left):
            while not job.ended:
                self.next_of(job, engine.next_chunk)
            assert engine.next_chunk(job.sequence) is None
            job.check_text()
            assert job.sequence.sampler.closed  # type: ignore[attr-defined]
        for one in engine.waiting:
            engine.cancel(one)
        while engine.step():
            pass
        self.memory_is_what_slots_say()
        with engine.at_rest() as slots:
            for slot in slots:
                slot.fill()
                runner.keep(slot.seq_id, 0)
        assert not any(runner.memory.values())
        waiting = engine.submit(Request(prompt=Prompt((1,))))
        engine.close()
        with pytest.raises(ClosedError):
            engine.next_chunk(waiting)
        with pytest.raises(ClosedError):
            engine.submit(Request(prompt=Prompt((1,))))


def search(examples: int, steps: int, seed: int | None = None) -> None:
    class Machine(EngineStates):
        pass

    run_state_machine_as_test(
        Machine if seed is None else hypothesis.seed(seed)(Machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=seed is None,
            database=None,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_calls() -> None:
    search(60, 25)


@pytest.mark.fuzz
def test_any_order_of_calls_for_long() -> None:
    end, examples = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}")
        search(300, 60, seed)
        examples += 300
    print(f"{examples} examples")
