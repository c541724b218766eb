"""Which sequence is computed when: the engine on a runner whose clock says what decodes take."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import cells_used
from llama_cffi.engine.waiting_line import MAX_PASSED
from llama_cffi.reply.completion import FinishReason
from tests.engine.test_row_groups import MEASURED, between

EACH = 0.0005
"""Seconds of a token of a prompt."""


class Machine(FakeRunner):
    """A model whose texts never end by themselves, on a machine of which a table says what rows take."""

    def __init__(self, table: str = "Q8_0", slower: float = 1.0, **sizes: Any) -> None:
        cost = between(MEASURED[table])
        super().__init__(
            seconds=lambda n_rows, n_others: slower * (cost(max(1, n_rows)) / 1000 + n_others * EACH),
            **{"n_batch": 2048, "n_ubatch": 512, "n_ctx": 40_000, "n_seq_max": 8} | sizes,
        )

    @classmethod
    def next_token(cls, cells: list[int]) -> int:
        return 97 + (len(cells) * 31 + cells[-1]) % 26


class Load:
    """An engine, and what its sequences do by the clock of its runner."""

    def __init__(self, runner: FakeRunner, options: EngineOptions | None = None) -> None:
        self.runner = runner
        self.engine = Engine(runner, options)
        self.sequences: list[RunningSequence] = []
        self.first: dict[int, float] = {}
        """When each sequence had its first token."""
        self.started: list[int] = []
        """Sequences in the order of their starts."""
        self.steps: list[float] = []
        """Seconds of every step."""

    def submit(self, prompt: Iterable[int] | int, **fields: Any) -> int:
        """A prompt, or a length of one that shares nothing with others."""
        i = len(self.sequences)
        if isinstance(prompt, int):
            prompt = [1000 + i, *[2000] * (prompt - 1)]
        request = Request(prompt=Prompt(prompt), **{"max_tokens": 1} | fields)
        self.sequences.append(self.engine.submit(request))
        return i

    def step(self) -> bool:
        before = self.runner.now
        stepped = self.engine.step()
        self.steps.append(self.runner.now - before)
        for i, sequence in enumerate(self.sequences):
            if i not in self.started and (sequence.seq_id is not None or sequence.done):
                self.started.append(i)
            if i not in self.first and sequence.output:
                self.first[i] = self.runner.now
        return stepped

    def run(self) -> None:
        while self.step():
            pass

    @property
    def part_done(self) -> int:
        return sum(0 < one.n_past < one.n_prompt for one in self.sequences if one.seq_id is not None)


# -- prompts


def test_prompts_end_one_after_the_other() -> None:
    load = Load(Machine())
    for _ in range(8):
        load.submit(130, max_tokens=20)
    load.run()
    times = [load.first[i] for i in range(8)]
    assert times == sorted(times)
    alone = 130 * EACH
    # In one batch all would wait for the sum.
    assert times[0] < 3 * alone
    assert times[3] < 7 * alone
    assert len(set(times)) >= 6


def test_no_step_is_longer_than_it_may_be() -> None:
    load = Load(Machine())
    for _ in range(7):
        load.submit(20, max_tokens=400)
    while len(load.first) < 7:
        load.step()
    for _ in range(100):
        load.step()
    long = load.submit(2000)
    before = len(load.steps)
    while long not in load.first:
        load.step()
    mixed = load.steps[before:]
    assert max(mixed) <= 0.25
    assert len(mixed) <= 14, "and the prompt takes what there is"
    others = [len(one.output) for one in load.sequences[:7]]
    assert max(others) - min(others) < 12


def test_a_limit_that_rows_and_prompts_exceed_together() -> None:
    """Seven rows take 37 ms, filled up to eight 24, and with the least of a prompt 40: they take turns then."""
    load = Load(Machine(), EngineOptions(max_step_seconds=0.03))
    for _ in range(7):
        load.submit(20, max_tokens=800)
    while len(load.first) < 7 or len(load.steps) < 250:
        load.step()
    long = load.submit(2000)
    before, had = len(load.steps), [len(one.output) for one in load.sequences]
    while long not in load.first:
        load.step()
    part = load.steps[before:]
    # The first one has to find out what a piece of a prompt takes.
    assert max(part[3:]) <= 0.03
    got = [len(one.output) - n for one, n in zip(load.sequences[:7], had[:7], strict=True)]
    assert min(got) > len(part) // 2 - 8


def test_shorter_prompts_come_first_and_equal_ones_as_they_came() -> None:
    load = Load(Machine(n_seq_max=1))
    load.submit(600)
    load.step()
    for n in (500, 100, 300, 100, 40):
        load.submit(n)
    load.run()
    assert load.started == [0, 5, 2, 4, 3, 1]


def test_the_more_urgent_come_first_whatever_their_length() -> None:
    load = Load(Machine(n_seq_max=1))
    load.submit(600)
    load.step()
    for n, priority in ((50, 1), (500, 0), (700, -1), (40, 2), (20, 0)):
        load.submit(n, priority=priority)
    load.run()
    assert load.started == [0, 3, 5, 2, 1, 4]


def test_a_long_prompt_among_short_ones_starts_in_time() -> None:
    """Short ones keep the machine busy; the long one starts within twice its own time, and ends within two more."""
    load = Load(Machine())
    alone = 6000 * EACH
    long = load.submit(6000)
    for _ in range(8):
        load.submit(100)
    begun = 0.0
    while long not in load.first:
        while len(load.engine._inbox.waiting) < 8:
            load.submit(100)
        load.step()
        if not begun and load.sequences[long].n_past:
            begun = load.runner.now
        assert load.part_done <= 2
    assert begun < 2 * alone
    assert load.first[long] < 4.5 * alone
    # The short ones had their half meanwhile.
    assert sum(begun < at < load.first[long] for at in load.first.values()) > 15


def test_nothing_waits_for_ever_for_more_urgent_ones() -> None:
    load = Load(Machine(n_seq_max=2, slower=30.0))
    patient = load.submit(100, priority=3)
    while patient not in load.first:
        while len(load.engine._inbox.waiting) < 4:
            load.submit(100, priority=-1, max_tokens=3)
        load.step()
        assert load.runner.now < 300
    assert load.runner.now > 60, "but long enough"


def test_at_most_two_prompts_are_computed_in_part() -> None:
    load = Load(Machine())
    for n in (3000, 2500, 2000, 1500, 1000, 40):
        load.submit(n, max_tokens=5)
        load.step()
        assert load.part_done <= 2
    while load.step():
        assert load.part_done <= 2
    # What is urgent need not wait for what is not.
    load = Load(Machine())
    for n, priority in ((3000, 1), (2500, 1), (2000, 0)):
        load.submit(n, priority=priority)
        load.step()
    assert load.sequences[2].n_past


# -- who may start


def test_what_cannot_start_is_passed_at_most_so_often() -> None:
    load = Load(Machine(n_cells=1000, n_seq_max=4))
    load.submit(500, max_tokens=100_000)
    load.step()
    large = load.submit(700, priority=-1)
    for _ in range(30):
        load.submit(40)
    for _ in range(200):
        load.step()
    assert load.sequences[large].n_passed == MAX_PASSED
    assert len(load.started) == 1 + MAX_PASSED
    urgent = load.submit(10, priority=-2)
    for _ in range(5):
        load.step()
    assert urgent in load.started, "what is more urgent does not wait for it"
    load.engine.cancel(load.sequences[0])
    load.run()
    assert load.started.index(large) == 2 + MAX_PASSED


def test_texts_that_need_room_wait_instead_of_being_put_off() -> None:
    load = Load(Machine(n_cells=1000))
    for _ in range(12):
        load.submit(200, max_tokens=100)
    made = []
    make_room = load.engine._scheduler.make_room
    load.engine._scheduler.make_room = lambda: made.append(make_room()) or made[-1]  # type: ignore[method-assign, func-returns-value]
    most = 0
    while load.step():
        most = max(most, sum(one.seq_id is not None for one in load.sequences))
        # Only what was kept for reuse has to go.
        assert all(one.n_past > 0 for one in load.sequences if one.seq_id is not None and one.output)
    assert most == 3
    assert made
    assert all(len(one.output) == 100 for one in load.sequences)


def test_prompts_that_share_a_prefix_share_its_cells() -> None:
    load = Load(Machine(n_cells=1200))
    prefix = list(range(1, 601))
    load.submit([*prefix, 5000], max_tokens=60)
    for i in range(7):
        load.submit([*prefix, 6000 + i], max_tokens=60)
    while len(load.first) < 8:
        load.step()
    assert not any(one.done for one in load.sequences), "there is room for all of them at once"
    load.run()
    assert [one.n_cached for one in load.sequences] == [0, *[600] * 7]


def test_what_is_in_memory_is_used_before_it_is_pushed_out() -> None:
    load = Load(Machine(n_seq_max=2))
    prefix = list(range(1, 301))
    load.submit([*prefix, 5000])
    load.submit(600)
    load.run()
    others = [load.submit(200) for _ in range(4)]
    same = load.submit([*prefix, *[7] * 210])
    load.run()
    assert load.started.index(same) < load.started.index(others[1])
    assert load.sequences[same].n_cached == 300


def test_the_least_urgent_is_put_off_and_then_the_newest() -> None:
    load = Load(Machine(n_cells=1000))
    scheduler = load.engine._scheduler
    for priority in (0, 2, 2, 0):
        load.submit(10, priority=priority, max_tokens=100)
    while len(load.first) < 4:
        load.step()
    put_off = []
    for _ in range(3):
        scheduler.make_room()
        put_off.append(load.sequences.index(scheduler.waiting[0]))
    assert put_off == [2, 1, 3]
    assert scheduler.make_room() is None


# -- rows


@pytest.mark.parametrize("table", MEASURED)
@pytest.mark.parametrize("n", [2, 3, 7])
def test_streams_together_are_no_slower_than_one_after_the_other(table: str, n: int) -> None:
    load = Load(Machine(table))
    for _ in range(n):
        load.submit(8, max_tokens=400)
    load.run()
    alone = Load(Machine(table))
    alone.submit(8, max_tokens=400)
    alone.run()
    assert load.runner.now <= 1.03 * n * alone.runner.now + 20 * between(MEASURED[table])(n) / 1000
    # None of them is left behind.
    lengths = []
    again = Load(Machine(table))
    for _ in range(n):
        again.submit(8, max_tokens=400)
    while again.step() and not any(one.done for one in again.sequences):
        lengths.append([len(one.output) for one in again.sequences])
    assert all(max(each) - min(each) <= 3 for each in lengths[4:])


def test_padding_leaves_nothing_in_memory_and_needs_room() -> None:
    """Seven rows are filled up to eight; the runner checks what is in memory at every step."""
    for n_cells in (40_000, 7 * 60):
        load = Load(Machine(n_cells=n_cells, n_seq_max=7))
        for _ in range(7):
            load.submit(8, max_tokens=52)
        load.run()
        for one in load.sequences:
            assert one.output == load.runner.expected(one.request.prompt, 52, 40_000)


# -- everything at once


requests = st.tuples(
    st.integers(0, 12),
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.integers(1, 30),
    st.integers(-2, 2),
    st.sampled_from([PLAIN, PLAIN, Conditioning((("a", 1.0),))]),  # type: ignore[arg-type]
    st.sampled_from(["ends", "ends", "ends", "cancelled", "drafts"]),
)


@settings(max_examples=120)
@given(
    st.lists(requests, min_size=1, max_size=14),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([90, 100, 130, 200, 400]),
    st.sampled_from(sorted(MEASURED)),
    st.booleans(),
)
def test_any_load_gives_every_text_and_starves_none(
    wanted: list[Any], n_batch: int, n_ubatch: int, n_slots: int, n_cells: int, table: str, unknown: bool
) -> None:
    cost = between(MEASURED[table])
    runner = FakeRunner(
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_ctx=90,
        n_seq_max=n_slots,
        n_cells=n_cells,
        seconds=lambda n_rows, n_others: cost(n_rows) / 1000 + n_others * EACH,
    )
    load = Load(runner)
    if unknown:  # The scheduler does not know how much memory there is: some are put off.
        load.engine._scheduler._cells._n_cells = None
    at_step = sorted(wanted, key=lambda one: one[0])
    while at_step or not load.engine.idle:
        while at_step and (at_step[0][0] <= len(load.steps) or load.engine.idle):
            _, prompt, n, priority, conditioning, what = at_step.pop(0)
            drafts = PromptLookup(min_ngram=1) if what == "drafts" else None
            i = load.submit(prompt, max_tokens=n, priority=priority, conditioning=conditioning, speculative=drafts)
            if what == "cancelled":
                load.step()
                load.engine.cancel(load.sequences[i])
        load.step()
        assert len(load.steps) < 4000
        # The scheduler knows how many cells are in use, and the runner knows which.
        slots = load.engine._scheduler.slots
        assert cells_used((slot.shared, slot.n_cells) for slot in slots) == runner.n_used
    for sequence in load.sequences:
        request = sequence.request
        assert request.max_tokens is not None
        expected = runner.expected(request.prompt, request.max_tokens, 90, request.conditioning)
        if sequence.finish_reason is FinishReason.CANCELLED:
            assert sequence.output == expected[: len(sequence.output)]
        else:
            assert sequence.output == expected
    scheduler = load.engine._scheduler
    assert all(slot.sequence is None for slot in scheduler.slots)
    assert not scheduler.waiting


def test_a_busy_engine_lets_everyone_in_within_bounded_steps() -> None:
    """Random arrivals at the limit of what the machine does, for thousands of steps."""
    random = Random(5)
    load = Load(Machine("Q4_K_M", n_seq_max=6, n_cells=3000, n_ctx=1500))
    waited: dict[int, int] = {}
    for step in range(1500):
        while len(load.engine._inbox.waiting) < 5:
            i = load.submit(
                random.choice([10, 40, 200, 900]), max_tokens=random.randint(1, 60), priority=random.randint(-1, 1)
            )
            waited[i] = step
        load.step()
        for i in list(waited):
            if load.sequences[i].output:
                del waited[i]
            else:
                assert step - waited[i] < 900
