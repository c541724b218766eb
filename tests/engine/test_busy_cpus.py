"""Fewer threads while other work keeps CPUs busy: when, how many, until when, and never otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi._util.cpu_use import CpuUse, cpu_use
from llama_cffi.engine.busy_cpus import BusyCpus, watch
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.telemetry import Telemetry


class Machine:
    """A machine on which a model computes beside ``others(seconds)`` busy processes; the CPUs are shared equally."""

    def __init__(self, n_cpus: int, others: Callable[[float], int], step: float = 0.01, gap: float = 0.0) -> None:
        self.n_cpus, self.others, self.step, self.gap = n_cpus, others, step, gap
        self.n_threads = n_cpus
        self.now = self.stepped = self.used = 0.0
        self.preempted = self.faults = 0
        self.applied: list[tuple[float, int | None]] = []
        self.busy = BusyCpus(lambda: self.n_threads, self.apply, lambda: CpuUse(self.used, self.preempted, self.faults))
        self.due = 0.0

    def apply(self, limit: int | None) -> None:
        self.applied.append((self.now, limit))

    @property
    def n(self) -> int:
        return min(self.n_threads, self.applied[-1][1] or self.n_threads) if self.applied else self.n_threads

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            running = self.n + self.others(self.now)
            share = min(1.0, self.n_cpus / running)
            self.now += self.step
            self.stepped += self.step
            self.used += self.n * share * self.step
            self.preempted += running > self.n_cpus
            if self.now >= self.due:
                self.due = self.busy.look(self.now, self.stepped)
            self.now += self.gap


def test_one_busy_process_on_two_cpus() -> None:
    machine = Machine(2, lambda now: 1)
    machine.run(0.3)
    [(lowered, limit)] = machine.applied
    assert limit == 1
    assert 0.18 < lowered < 0.3
    machine.run(30)
    # All threads are tried again for a moment, ever more rarely.
    assert machine.n == 1
    trials = [now for now, limit in machine.applied if limit is None]
    assert 10 < len(trials) < 20
    assert all(later - earlier > 1.9 for earlier, later in itertools.pairwise(trials[4:]))
    tried = sum(
        back - now
        for (now, limit), (back, _) in zip(machine.applied, machine.applied[1:], strict=False)
        if limit is None
    )
    assert tried < 0.04 * 30


@pytest.mark.parametrize(
    ("n_cpus", "n_others", "n"), [(2, 1, 1), (4, 1, 3), (8, 1, 7), (8, 3, 5), (16, 4, 12), (4, 9, 1)]
)
def test_as_many_threads_as_cpus_are_free(n_cpus: int, n_others: int, n: int) -> None:
    machine = Machine(n_cpus, lambda now: n_others)
    machine.run(1.5)
    lowered = [limit for _, limit in machine.applied if limit is not None]
    assert min(lowered) >= n - (n_others > 1)
    machine.run(10)
    assert min(limit for _, limit in machine.applied if limit is not None) in (n, max(1, n - 1), n + 1)


def test_slow_steps_are_tried_more_rarely() -> None:
    machine = Machine(2, lambda now: 1, step=0.4)
    machine.run(200)
    trials = [now for now, limit in machine.applied if limit is None]
    assert 10 < trials[-1] - trials[-2] < 20
    assert len(trials) < 25


def test_all_threads_come_back_when_the_other_process_ends() -> None:
    machine = Machine(2, lambda now: now < 10)
    machine.run(10)
    assert machine.n == 1 or machine.applied[-1][1] is None
    machine.run(2.5)
    assert machine.n == 2
    n_applied = len(machine.applied)
    machine.run(10)
    assert len(machine.applied) == n_applied


def test_a_short_job_changes_nothing() -> None:
    machine = Machine(2, lambda now: now % 1 < 0.1)
    machine.run(20)
    assert not machine.applied


@settings(max_examples=40)
@given(
    n_cpus=st.integers(1, 64),
    step=st.floats(0.002, 0.5),
    gap=st.floats(0.0, 0.1),
    idle=st.booleans(),
)
def test_nothing_is_tried_on_a_quiet_machine(n_cpus: int, step: float, gap: float, idle: bool) -> None:
    machine = Machine(n_cpus, lambda now: 0, step, gap)
    for _ in range(5):
        machine.run(0.5)
        if not idle:
            machine.used += machine.gap * n_cpus  # the threads wait busily between the steps, too
        machine.now += 3.0  # nothing to do for a while
    assert not machine.applied


@settings(max_examples=40)
@given(
    n_cpus=st.integers(1, 16),
    jobs=st.lists(st.tuples(st.integers(0, 16), st.floats(0.05, 3.0)), max_size=8),
    step=st.floats(0.004, 0.3),
)
def test_whatever_else_runs(n_cpus: int, jobs: list[tuple[int, float]], step: float) -> None:
    """The number stays between 1 and all, changes at most so often, and comes back."""
    ends: list[tuple[float, int]] = []
    for n, seconds in jobs:
        ends.append(((ends[-1][0] if ends else 0.0) + seconds, n))
    machine = Machine(n_cpus, lambda now: next((n for end, n in ends if now < end), 0), step)
    machine.run(ends[-1][0] if ends else 0.1)
    machine.run(3.0 + 80 * step)
    assert machine.n == n_cpus
    assert all(limit is None or 1 <= limit < n_cpus for _, limit in machine.applied)
    times = [now for now, _ in machine.applied]
    # Each trial is preceded by the least wait.
    assert len(times) <= 2 + 3 * machine.now / 0.25


def test_pages_that_are_read_from_a_file_are_no_lack_of_cpus() -> None:
    machine = Machine(2, lambda now: 0)

    class Reading(Machine):
        def run(self, seconds: float) -> None:
            end = self.now + seconds
            while self.now < end:
                self.now += 0.01
                self.stepped += 0.01
                self.used += 0.008
                self.preempted += 1
                self.faults += 1
                if self.now >= self.due:
                    self.due = self.busy.look(self.now, self.stepped)

    machine = Reading(2, lambda now: 0)
    machine.run(5)
    assert not machine.applied


def test_waiting_without_preemption_is_no_lack_of_cpus() -> None:
    """As of threads that wait for a device, or that the machine below this one holds back."""
    machine = Machine(2, lambda now: 1)
    type(machine).preempted = property(lambda self: 0, lambda self, value: None)  # type: ignore[assignment]
    try:
        machine.run(5)
        assert not machine.applied
    finally:
        del type(machine).preempted  # type: ignore[misc]


def test_a_caller_may_change_the_number_meanwhile() -> None:
    machine = Machine(4, lambda now: 1)
    machine.run(1)
    assert machine.n < 4
    machine.n_threads = 1
    machine.run(3)
    n_applied = len(machine.applied)
    machine.run(5)
    assert len(machine.applied) == n_applied
    machine.others = lambda now: 0
    machine.n_threads = 4
    machine.run(3)
    assert machine.n == 4


def test_a_system_that_tells_nothing() -> None:
    applied: list[int | None] = []
    busy = BusyCpus(lambda: 4, applied.append, lambda: None)
    assert busy.look(1.0, 1.0) == float("inf")
    assert not applied


def test_the_use_of_this_process() -> None:
    before = cpu_use()
    if before is None:
        pytest.skip("this system does not tell")
    total = 0
    while (used := cpu_use()) is not None and used.seconds - before.seconds < 0.02:
        total += 1
    assert total
    assert used is not None
    assert used.preempted >= before.preempted


def test_steps_are_watched() -> None:
    calls: list[tuple[float, float]] = []

    def look(now: float, stepped: float) -> float:
        calls.append((now, stepped))
        return now + 1000

    telemetry = Telemetry(None, look)
    telemetry.stepped("decode", 0.0, ())
    telemetry.stepped("prefill", 0.0, ())
    assert len(calls) == 1
    assert calls[0][1] == telemetry.steps["decode"].total


def test_an_engine_watches_unless_it_is_reproducible() -> None:
    runner = FakeRunner()
    assert watch(runner, EngineOptions(reproducible=True)) is None
    look = watch(runner, EngineOptions())
    assert look is not None
    assert look(1.0, 1.0) > 1.0
    engine = Engine(runner, EngineOptions())
    assert engine.idle
    assert runner.limit is None
