"""The generation loop on a runner without a model: hypothesis tries what a schedule can do to a text."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import _WORTH_WAITING, Scheduler, StepPlan
from llama_cffi.errors import AbortedError, BusyError, ContextOverflowError, DecodeError, SamplerError, UnsupportedError
from llama_cffi.reply.completion import Completion, FinishReason

prompts = st.lists(st.integers(0, 255), min_size=1, max_size=30)


def request(prompt: Iterable[int], **fields: Any) -> Request:
    return Request(prompt=Prompt(prompt), **fields)


def read(engine: Engine, sequence: RunningSequence) -> Completion:
    text = ""
    while (chunk := engine.next_chunk(sequence)) is not None:
        text += chunk.text
        if chunk.completion is not None:
            assert chunk.completion.text == text
            return chunk.completion
    raise AssertionError("the sequence ended without a completion")


def run(engine: Engine, prompt: Iterable[int], **fields: Any) -> Completion:
    return read(engine, engine.submit(request(prompt, **fields)))


# -- what is generated never depends on what else is running


@settings(max_examples=150)
@given(
    st.lists(st.tuples(prompts, st.integers(1, 25)), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(40, 120),
)
def test_many_requests_give_what_each_gives_alone(
    wanted: list[tuple[list[int], int]], n_batch: int, n_slots: int, n_cells: int
) -> None:
    # n_cells is often too small for all: sequences are preempted and computed again.
    runner = FakeRunner(n_batch=n_batch, n_ctx=40, n_seq_max=n_slots, n_cells=n_cells)
    engine = Engine(runner)
    sequences = [engine.submit(request(prompt, max_tokens=n)) for prompt, n in wanted]
    for sequence, (prompt, n) in zip(sequences, wanted, strict=True):
        assert list(read(engine, sequence).tokens) == runner.expected(prompt, n, runner.n_ctx)
    assert engine.idle


@settings(max_examples=60)
@given(st.lists(st.tuples(prompts, st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=6))
def test_cancelling_some_changes_nothing_for_the_others(wanted: list[tuple[list[int], int, int]]) -> None:
    runner = FakeRunner(n_batch=7, n_ctx=48, n_seq_max=3, n_cells=90)
    engine = Engine(runner)
    sequences = [engine.submit(request(prompt, max_tokens=n)) for prompt, n, _ in wanted]
    for step in range(6):
        for sequence, (_, _, when) in zip(sequences, wanted, strict=True):
            if when == step + 1:
                engine.cancel(sequence)
        engine.step()
    for sequence, (prompt, n, when) in zip(sequences, wanted, strict=True):
        completion = read(engine, sequence)
        expected = runner.expected(prompt, n, runner.n_ctx)
        if completion.finish_reason is FinishReason.CANCELLED:
            assert when
            assert list(completion.tokens) == expected[: len(completion.tokens)]
        else:
            assert list(completion.tokens) == expected
    assert engine.idle


ADAPTERS: list[Any] = [(("a", 1.0),), (("a", 0.5),), (("a", 1.0), ("b", -1.0))]
SETS = [PLAIN, *map(Conditioning, ADAPTERS)]


@settings(max_examples=150)
@given(
    st.lists(st.tuples(prompts, st.integers(1, 25), st.sampled_from(SETS), st.booleans()), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(40, 120),
)
def test_requests_with_different_adapters_give_what_each_gives_alone(
    wanted: list[tuple[list[int], int, Any, bool]], n_batch: int, n_slots: int, n_cells: int
) -> None:
    # The runner refuses a plan with two sets, and its tokens depend on the set that each one was computed with.
    runner = FakeRunner(n_batch=n_batch, n_ctx=40, n_seq_max=n_slots, n_cells=n_cells)
    engine = Engine(runner)
    for again in range(2):  # the second time there are prefixes of every set in memory
        sequences = [
            engine.submit(
                request(
                    prompt, max_tokens=n, conditioning=one, speculative=PromptLookup(min_ngram=1) if drafts else None
                )
            )
            for prompt, n, one, drafts in wanted
        ]
        for sequence, (prompt, n, one, _) in zip(sequences, wanted, strict=True):
            if again:
                engine.step()
            assert list(read(engine, sequence).tokens) == runner.expected(prompt, n, runner.n_ctx, one)
    assert engine.idle


def test_sequences_with_different_adapters_take_turns() -> None:
    runner = FakeRunner(n_batch=8, n_ctx=64, n_seq_max=4)
    engine = Engine(runner)
    long = next([n] for n in range(256) if len(FakeRunner.expected([n], 40, 64, SETS[1])) == 40)
    sequences = [engine.submit(request(long, max_tokens=40, conditioning=one)) for one in (*SETS[1:], SETS[1])]
    used = []
    for _ in range(12):
        engine.step()
        used.append(runner.conditioning)
    assert used == SETS[1:] * 4
    assert [len(sequence.output) for sequence in sequences] == [4] * 4
    # Two of one set are computed together.
    assert [len(plan) for plan in runner.decoded[:3]] == [2, 1, 1]
    for _ in range(30):  # and nobody waits for ever, whoever comes and goes
        engine.submit(request([7], max_tokens=1, conditioning=SETS[2]))
        engine.step()
    assert all(len(sequence.output) > 4 for sequence in sequences)


def test_memory_of_one_set_is_no_prefix_of_another() -> None:
    engine = Engine(FakeRunner(n_batch=32, n_ctx=64, n_seq_max=2))
    prompt = list(range(20))
    cached = [
        run(engine, prompt, max_tokens=1, conditioning=one).usage.cached_tokens for one in (SETS[1], PLAIN, SETS[1])
    ]
    assert cached == [0, 0, 19]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_an_interrupt_before_the_adapters_are_set(steps: int) -> None:
    class Interrupted(FakeRunner):
        at = -1

        def use(self, conditioning: Conditioning) -> None:
            self.at -= 1
            if self.at == 0:
                raise KeyboardInterrupt
            super().use(conditioning)

    for at in range(1, 4):
        runner = Interrupted(n_ctx=64, n_seq_max=2)
        engine = Engine(runner)
        other = engine.submit(request([1], max_tokens=5, conditioning=SETS[1]))
        for _ in range(steps):
            engine.step()
        engine.cancel(other)
        sequence = engine.submit(request([2], max_tokens=9))
        runner.at = at
        interrupted = 0
        for _ in range(3):
            try:
                while engine.next_chunk(sequence) is not None:
                    pass
            except KeyboardInterrupt:
                interrupted += 1
        assert sequence.output == runner.expected([2], 9, 64)
        assert interrupted <= 1


def test_adapters_are_let_go_when_nothing_runs() -> None:
    runner = FakeRunner(n_ctx=64)
    engine = Engine(runner)
    sequence = engine.submit(request([1, 2, 3], max_tokens=5))
    engine.step()
    engine.use(SETS[1])  # a running request keeps its own
    assert list(read(engine, sequence).tokens) == runner.expected([1, 2, 3], 5, 64)
    abandoned = engine.submit(request([1], max_tokens=5))
    engine.abandon(abandoned)
    engine.use(SETS[2])
    assert runner.conditioning == SETS[2]


def test_what_adapters_computed_is_not_kept_outside_and_nothing_is_found_for_them() -> None:
    runner = FakeRunner(n_batch=32, n_ctx=64, n_seq_max=1)
    runner.stored = []
    engine = Engine(runner)
    prompt = list(range(20))
    for one in (SETS[1], PLAIN, SETS[1], PLAIN, SETS[2]):
        completion = run(engine, prompt, max_tokens=3, conditioning=one)
        assert list(completion.tokens) == runner.expected(prompt, 3, 64, one)
    assert {kept.prompt[:20] for kept in runner.stored} == {tuple(prompt)}
    assert len(runner.stored) == 2
    assert run(engine, [*prompt, 1, 2], max_tokens=1).usage.cached_tokens >= 19


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=10),
    st.integers(1, 16),
    st.integers(1, 4),
)
def test_a_plan_fits_the_batch_and_makes_progress(lengths: list[int], n_batch: int, n_slots: int) -> None:
    scheduler = Scheduler(n_batch, n_batch, n_slots, DecodeCost())
    runner = FakeRunner()
    pieces = runner.pieces(frozenset())
    sequences = [
        RunningSequence(request([1] * n, max_tokens=3), runner.sampler(request([1]), 0), 0, pieces) for n in lengths
    ]
    for sequence in sequences:
        scheduler.submit(sequence)
    for _ in range(sum(lengths) + 4 * len(lengths)):
        plan: StepPlan = scheduler.plan(lambda admission, sequence: admission.n_reused)
        if not plan:
            break
        assert 1 <= sum(work.n_tokens for work in plan) <= n_batch
        assert len({id(work.sequence) for work in plan}) == len(plan) <= n_slots
        for sequence, n_tokens, output, *_ in plan:
            assert 1 <= n_tokens <= sequence.n_pending
            assert output == (n_tokens == sequence.n_pending)
            sequence.n_past += n_tokens
            if output:
                sequence.accept(120)
                if sequence.done:
                    scheduler.release(sequence)
    assert all(sequence.done for sequence in sequences)


def test_decode_steps_come_before_prefill() -> None:
    runner = FakeRunner(n_batch=4, n_ctx=64, n_seq_max=2)
    engine = Engine(runner)
    first = engine.submit(request([1], max_tokens=20))
    engine.step()
    engine.submit(request([2] * 9, max_tokens=1))
    engine.step()
    assert first.seq_id is not None
    assert runner.decoded[-1] == [(first.seq_id, 1), (1 - first.seq_id, 3)]


def test_a_following_prompt_reuses_what_is_in_memory() -> None:
    engine = Engine(FakeRunner(n_batch=32, n_ctx=64, n_seq_max=2))
    prompt = list(range(20))
    first = run(engine, prompt, max_tokens=3)
    second = run(engine, [*prompt, *first.tokens, 7, 7], max_tokens=2)
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == 20 + len(first.tokens) - 1
    assert second.timings.prefill_tokens == 3


# -- how a sequence ends


media = st.builds(
    lambda name, n, less: Media(bytes([name]) * 16, n, max(1, n - less)),
    st.integers(0, 2),
    st.integers(1, 5),
    st.integers(0, 4),
)
mixed = st.lists(st.one_of(st.integers(0, 3), media), min_size=1, max_size=6)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(mixed, st.integers(1, 12), st.booleans()), min_size=1, max_size=6),
    st.integers(5, 12),
    st.integers(1, 4),
    st.integers(60, 160),
)
def test_prompts_with_media_give_what_each_gives_alone(
    wanted: list[tuple[list[int | Media], int, bool]], n_batch: int, n_slots: int, n_cells: int
) -> None:
    # The runner refuses a plan that cuts media in two, and knows the position of every cell.
    runner = FakeRunner(n_batch=n_batch, n_ctx=60, n_seq_max=n_slots, n_cells=n_cells)
    runner.stored = []
    engine = Engine(runner)
    for _ in range(2):
        jobs = [
            engine.submit(
                Request(
                    prompt=Prompt([*parts, 9]),
                    max_tokens=n,
                    speculative=PromptLookup(min_ngram=1) if drafts else None,
                )
            )
            for parts, n, drafts in wanted
        ]
        for job, (parts, n, _) in zip(jobs, wanted, strict=True):
            assert list(read(engine, job).tokens) == runner.expected(Prompt([*parts, 9]), n, runner.n_ctx)


def test_media_are_reused_as_a_whole_and_never_cut() -> None:
    engine = Engine(FakeRunner(n_batch=8, n_ctx=64))
    one, other = Media(b"a" * 16, 6, 2), Media(b"b" * 16, 6, 2)
    run(engine, Prompt([1, 2, one, 3, 4]), max_tokens=1)
    assert run(engine, Prompt([1, 2, one, 3, 5]), max_tokens=1).usage.cached_tokens == 9
    assert run(engine, Prompt([1, 2, other, 3, 5]), max_tokens=1).usage.cached_tokens == 2
    # More cells than a batch holds are computed in pieces.
    assert run(engine, Prompt([Media(b"c" * 16, 9, 9), 1]), max_tokens=1).usage.prompt_tokens == 10
    with pytest.raises(UnsupportedError, match="media cannot be shifted"):
        engine.submit(Request(prompt=Prompt([one, 1]), overflow="shift"))


def first_tokens(prompt: list[int], n: int) -> str:
    return bytes(FakeRunner.expected(prompt, n, 64)).decode()


@pytest.mark.parametrize("n_prompt", [1, 2, 7, 20])
def test_max_tokens_zero_computes_the_prompt_and_keeps_it(n_prompt: int) -> None:
    runner = FakeRunner(n_batch=8)
    engine = Engine(runner)
    for again in range(2):
        completion = run(engine, range(n_prompt), max_tokens=0)
        assert (completion.text, completion.finish_reason) == ("", FinishReason.LENGTH)
        assert completion.usage.cached_tokens == again * (n_prompt - 1)
        assert engine.idle
    assert runner.memory[0] == list(range(n_prompt))
    completion = run(engine, range(n_prompt + 2), max_tokens=3)
    assert completion.usage.cached_tokens == n_prompt
    assert list(completion.tokens) == runner.expected(range(n_prompt + 2), 3, 64)


def test_a_stop_string_ends_the_text_before_it() -> None:
    text = first_tokens([1, 2], 10)
    completion = run(Engine(FakeRunner()), [1, 2], stop=(text[4:7],), max_tokens=30)
    assert completion.finish_reason is FinishReason.STOP
    assert completion.stop_sequence == text[4:7]
    assert completion.text == text[: text.index(text[4:7])]
    assert bytes(completion.tokens).decode().startswith(completion.text + text[4:7])


def test_end_of_generation_is_no_token_of_the_completion() -> None:
    prompt = next([n] for n in range(256) if len(FakeRunner.expected([n], 200, 200)) < 40)
    completion = run(Engine(FakeRunner(n_ctx=200)), prompt)
    assert completion.finish_reason is FinishReason.STOP
    assert completion.stop_sequence is None
    assert list(completion.tokens) == FakeRunner.expected(prompt, 200, 200)


@pytest.mark.parametrize("policy", ["stop", "error", "shift"])
def test_a_full_context(policy: Any) -> None:
    prompt = next([n] for n in range(256) if len(FakeRunner.expected([n], 60, 60)) == 60)
    runner = FakeRunner(n_ctx=20, n_batch=8)
    engine = Engine(runner)
    if policy == "error":
        with pytest.raises(ContextOverflowError, match="20"):
            run(engine, prompt, overflow=policy)
        assert engine.idle
        return
    completion = run(engine, prompt, overflow=policy, max_tokens=40)
    if policy == "stop":
        assert completion.finish_reason is FinishReason.LENGTH
        assert len(completion.tokens) == 20
    else:
        assert len(completion.tokens) == 40 or completion.finish_reason is FinishReason.STOP
        assert len(completion.tokens) > 20


def test_what_cannot_fit_is_refused_before_anything_is_computed() -> None:
    runner = FakeRunner(n_ctx=20)
    engine = Engine(runner)
    with pytest.raises(ContextOverflowError, match="21 tokens"):
        engine.submit(request([1] * 21))
    with pytest.raises(ContextOverflowError, match="max_tokens=10"):
        engine.submit(request([1] * 11, overflow="error", max_tokens=10))
    runner.can_shift = False
    with pytest.raises(UnsupportedError, match="shift"):
        engine.submit(request([1], overflow="shift"))
    assert runner.decoded == []


# -- failures


class Failing(FakeRunner):
    """Fails at a given decode."""

    def __init__(self, error: BaseException, at: int) -> None:
        super().__init__(n_ctx=64, n_seq_max=3)
        self.error, self.at, self.calls = error, at, 0

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        self.calls += 1
        if self.calls == self.at:
            for sequence, *_ in plan:
                if sequence.seq_id is not None:
                    self.memory[sequence.seq_id].append(0)  # half of a batch, as after an abort
            raise self.error
        return super().decode(plan, deadline)


def test_a_failed_decode_is_repeated_in_halves() -> None:
    runner = Failing(DecodeError("broken", code=-3), at=3)
    engine = Engine(runner)
    sequences = [engine.submit(request([n], max_tokens=9)) for n in (1, 2)]
    for sequence, n in zip(sequences, (1, 2), strict=True):
        assert list(read(engine, sequence).tokens) == runner.expected([n], 9, 64)


def test_a_failed_decode_of_one_request_ends_it_and_no_later_one() -> None:
    runner = Failing(DecodeError("broken", code=-3), at=1)
    engine = Engine(runner)
    sequence = engine.submit(request([1], max_tokens=9))
    with pytest.raises(DecodeError, match="broken"):
        read(engine, sequence)
    assert engine.next_chunk(sequence) is None
    assert list(run(engine, [1], max_tokens=9).tokens) == runner.expected([1], 9, 64)


def test_an_abort_ends_the_longest_computation() -> None:
    runner = Failing(AbortedError("aborted"), at=3)
    engine = Engine(runner)
    first = engine.submit(request([1], max_tokens=9))
    for _ in range(2):
        engine.step()
    runner.at = runner.calls + 1
    long = engine.submit(request(range(5), max_tokens=9))
    assert list(read(engine, first).tokens) == runner.expected([1], 9, 64)
    with pytest.raises(AbortedError):
        read(engine, long)


def test_an_interrupt_leaves_every_request_where_it_was() -> None:
    runner = Failing(KeyboardInterrupt(), at=3)
    engine = Engine(runner)
    sequences = [engine.submit(request([n], max_tokens=9)) for n in (1, 2)]
    with pytest.raises(KeyboardInterrupt):
        read(engine, sequences[0])
    for sequence, n in zip(sequences, (1, 2), strict=True):
        while engine.next_chunk(sequence) is not None:
            pass
        assert sequence.output == runner.expected([n], 9, 64)


def test_an_error_of_one_request_is_its_own() -> None:
    runner = FakeRunner(n_ctx=64)
    engine = Engine(runner)
    good, bad = engine.submit(request([1], max_tokens=9)), engine.submit(request([2], max_tokens=9))

    def choose(row: int) -> int:
        raise SamplerError("NaN")

    bad.sampler.choose = choose  # type: ignore[method-assign]
    assert list(read(engine, good).tokens) == runner.expected([1], 9, 64)
    with pytest.raises(SamplerError, match="NaN"):
        read(engine, bad)
    assert engine.idle


def test_a_step_inside_a_step_is_refused() -> None:
    class Nested(FakeRunner):
        def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
            with pytest.raises(BusyError):
                engine.step()
            return super().decode(plan, deadline)

    runner = Nested()
    engine = Engine(runner)
    assert list(run(engine, [1], max_tokens=3).tokens) == runner.expected([1], 3, 64)


def test_an_abandoned_sequence_goes_at_the_next_step() -> None:
    engine = Engine(FakeRunner(n_ctx=64))
    sequence = engine.submit(request([1]))
    engine.step()
    engine.abandon(sequence)
    engine.step()
    assert sequence.finish_reason is FinishReason.CANCELLED
    assert engine.idle


def test_threads_drive_each_other() -> None:
    runner = FakeRunner(n_batch=6, n_ctx=64, n_seq_max=3)
    engine = Engine(runner)
    results: dict[int, list[int]] = {}

    def work(n: int) -> None:
        results[n] = list(run(engine, [n, n], max_tokens=20).tokens)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {n: runner.expected([n, n], 20, 64) for n in range(8)}


@pytest.mark.parametrize("n", range(2, 20))
def test_what_a_shift_moved_is_not_reused(n: int) -> None:
    prompt = next([n] for n in range(256) if len(FakeRunner.expected([n], 60, 60)) == 60)
    engine = Engine(FakeRunner(n_ctx=20, n_batch=8))
    shifted = run(engine, prompt, overflow="shift", max_tokens=22)
    # The memory holds the prompt and, moved up behind it, the newer half of the text.
    followed = run(engine, [*prompt, *shifted.tokens[-n:]], max_tokens=1)
    assert followed.usage.cached_tokens <= len(prompt)


# -- sharing a prefill


@settings(max_examples=60)
@given(prompts, st.integers(1, 12), st.integers(2, 4), st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_equal_beginnings_are_computed_once(prompt: list[int], n_batch: int, n_slots: int, ends: list[int]) -> None:
    runner = FakeRunner(n_batch=n_batch, n_ctx=64, n_seq_max=n_slots)
    engine = Engine(runner)
    sequences = [engine.submit(request([*prompt, end], max_tokens=1)) for end in ends]
    for sequence, end in zip(sequences, ends, strict=True):
        assert list(read(engine, sequence).tokens) == runner.expected([*prompt, end], 1, 64)
    if len(prompt) >= 10:
        computed = sum(n for plan in runner.decoded for _, n in plan)
        # Beside its own end, each computes again what was not worth waiting for.
        assert computed <= len(prompt) + 1 + (len(ends) - 1) * _WORTH_WAITING
    assert engine.idle


# -- deadlines


@settings(max_examples=60)
@given(st.lists(st.tuples(prompts, st.booleans()), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 5))
def test_a_deadline_ends_its_own(wanted: list[tuple[list[int], bool]], n_batch: int, after: int) -> None:
    runner = FakeRunner(n_batch=n_batch, n_seq_max=3)
    engine = Engine(runner)
    limit = 1000.0
    sequences = [
        engine.submit(request(prompt, max_tokens=9, max_seconds=limit if timed else None)) for prompt, timed in wanted
    ]
    for _ in range(after):
        engine.step()
    for sequence in sequences:
        if sequence.deadline is not None:
            sequence.deadline = 0.0
    done = [sequence.done for sequence in sequences]
    for sequence, (prompt, timed), was_done in zip(sequences, wanted, done, strict=True):
        completion = read(engine, sequence)
        expected = runner.expected(prompt, 9, 64)
        if timed and not was_done:
            assert completion.finish_reason is FinishReason.DEADLINE
            assert list(completion.tokens) == expected[: len(completion.tokens)]
        else:
            assert list(completion.tokens) == expected
    assert engine.idle
    assert not engine._loop._timed


def test_a_decode_that_the_deadline_stopped() -> None:
    """Half of a batch is in memory: who is late ends, the other's tokens are computed again."""

    class Late(Failing):
        def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
            for work in plan:
                if deadline is not None and self.calls + 1 == self.at and work.sequence.deadline is not None:
                    work.sequence.deadline = 0.0
            return super().decode(plan, deadline)

    runner = Late(AbortedError("the deadline has passed"), at=3)
    engine = Engine(runner)
    late, other = (engine.submit(request([n], max_tokens=9, max_seconds=limit)) for n, limit in ((1, 100), (2, None)))
    assert read(engine, late).finish_reason is FinishReason.DEADLINE
    assert list(read(engine, other).tokens) == runner.expected([2], 9, 64)


def test_an_abort_that_no_deadline_asked_for_is_an_error() -> None:
    engine = Engine(Failing(AbortedError("aborted"), at=2))
    sequence = engine.submit(request([1], max_tokens=9, max_seconds=1000))
    with pytest.raises(AbortedError):
        read(engine, sequence)
    assert engine.idle
