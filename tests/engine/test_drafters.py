"""Drafts and what the engine makes of them, on a runner without a model: whatever is guessed, the text is the same."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.acceptance import ByPlace
from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.drafters import DraftController, Drafter, Wanted
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import DecodeError, LlamaCffiError, TokenError
from llama_cffi.reply.completion import Completion, FinishReason

prompts = st.lists(st.integers(0, 255), min_size=1, max_size=30)


class Oracle:
    """Drafts the right tokens, with a wrong one where ``errors`` says so: 1 is right, 0 wrong, 2 the draft's end."""

    def __init__(self, errors: Tokens[int] = (1,)) -> None:
        self.errors, self.n_asked = errors, 0

    def start(self) -> Drafter:
        return self

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        text, draft = list(tokens), []
        for _ in range(n_max):
            what = self.errors[self.n_asked % len(self.errors)]
            self.n_asked += 1
            if what == 2:
                break
            token = FakeRunner.next_token(text)
            draft.append(token if what else (token + 1) % 257)
            text.append(draft[-1])
        return draft


class Says:
    """Drafts the same each time, however long."""

    def __init__(self, draft: list[int]) -> None:
        self.draft = draft

    def start(self) -> Drafter:
        return self

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        return self.draft


def read(engine: Engine, sequence: RunningSequence) -> Completion:
    text = ""
    while (chunk := engine.next_chunk(sequence)) is not None:
        text += chunk.text
        if chunk.completion is not None:
            assert chunk.completion.text == text
            return chunk.completion
    raise AssertionError("the sequence ended without a completion")


def run(engine: Engine, prompt: list[int], **fields: Any) -> Completion:
    return read(engine, engine.submit(Request(prompt=Prompt(prompt), **fields)))


def prompt_of_length(n: int) -> list[int]:
    """A prompt after which the model writes at least n tokens."""
    return next([i] for i in range(256) if len(FakeRunner.expected([i], n, 10_000)) == n)


# -- the text never depends on the drafts

drafters = st.one_of(
    st.none(),
    st.builds(Oracle, st.lists(st.integers(0, 2), min_size=1, max_size=9)),
    st.builds(Says, st.lists(st.integers(0, 256), max_size=30)),
    st.builds(PromptLookup, n_draft=st.integers(1, 9), min_ngram=st.just(1), max_ngram=st.integers(1, 3)),
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(prompts, st.integers(1, 25), drafters), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(40, 120),
    st.booleans(),
)
def test_any_draft_gives_the_text_that_none_gives(
    wanted: list[tuple[list[int], int, Any]], n_batch: int, n_slots: int, n_cells: int, can_cut: bool
) -> None:
    # n_cells is often too small for all, and for the drafts before that.
    runner = FakeRunner(n_batch=n_batch, n_ctx=40, n_seq_max=n_slots, n_cells=n_cells)
    runner.can_cut = runner.can_cut_saved = runner.can_copy = runner.can_pad = can_cut
    engine = Engine(runner)
    sequences = [
        engine.submit(Request(prompt=Prompt(prompt), max_tokens=n, speculative=drafter))
        for prompt, n, drafter in wanted
    ]
    for sequence, (prompt, n, drafter) in zip(sequences, wanted, strict=True):
        completion = read(engine, sequence)
        assert list(completion.tokens) == runner.expected(prompt, n, runner.n_ctx)
        assert (completion.speculation is None) == (drafter is None)
    assert engine.idle


@settings(max_examples=100)
@given(prompts, drafters, st.integers(2, 9), st.integers(4, 30), st.sampled_from(["shift", "stop"]), st.booleans())
def test_a_full_context_ends_or_shifts_at_the_same_place(
    prompt: list[int], drafter: Any, n_batch: int, n_ctx: int, overflow: Any, logprobs: bool
) -> None:
    fields = {"overflow": overflow, "max_tokens": 50, "logprobs": 1 if logprobs else None}
    plain, drafted = (
        run(Engine(FakeRunner(n_batch=n_batch, n_ctx=n_ctx)), prompt[:n_ctx], speculative=source, **fields)
        for source in (None, drafter)
    )
    assert drafted.tokens == plain.tokens
    assert (drafted.finish_reason, drafted.logprobs) == (plain.finish_reason, plain.logprobs)


@settings(max_examples=100)
@given(prompts, drafters, st.integers(1, 12))
def test_a_stop_string_inside_a_draft(prompt: list[int], drafter: Any, n_batch: int) -> None:
    text = bytes(FakeRunner.expected(prompt, 20, 64)).decode()
    engine = Engine(FakeRunner(n_batch=n_batch))
    stop = text[7:9] or "?"
    completion = run(engine, prompt, speculative=drafter, stop=(stop,), max_tokens=20)
    assert completion.text == text.partition(stop)[0]
    # What the draft left in memory behind the end is no part of what a later prompt finds there.
    follow = [*prompt, *completion.tokens, 5]
    assert list(run(engine, follow, max_tokens=5).tokens) == FakeRunner.expected(follow, 5, 64)


@settings(max_examples=100)
@given(st.lists(st.tuples(prompts, drafters), min_size=1, max_size=5), st.integers(1, 8))
def test_interrupts_change_nothing(wanted: list[tuple[list[int], Any]], every: int) -> None:
    class Interrupted(FakeRunner):
        calls = 0

        def decode(self, plan: Any, deadline: float | None = None) -> list[int]:
            rows = super().decode(plan, deadline)
            self.calls += 1
            if self.calls % (every + 1) == 0:
                raise KeyboardInterrupt  # with everything computed, and nobody told
            return rows

    runner = Interrupted(n_batch=9, n_seq_max=3)
    engine = Engine(runner)
    sequences = [engine.submit(Request(prompt=Prompt(p), max_tokens=9, speculative=d)) for p, d in wanted]
    for sequence, (prompt, _) in zip(sequences, wanted, strict=True):
        while True:
            try:
                if engine.next_chunk(sequence) is None:
                    break
            except KeyboardInterrupt:
                pass
        assert sequence.output == runner.expected(prompt, 9, 64)


# -- what they gain


def test_right_drafts_save_decodes() -> None:
    runner = FakeRunner(n_batch=32)
    completion = run(Engine(runner), prompt_of_length(40), max_tokens=40, speculative=Oracle())
    speculation = completion.speculation
    assert speculation is not None
    assert speculation.target_decodes == len(runner.decoded) < 7
    assert speculation.accepted_tokens == speculation.drafted_tokens == 40 - speculation.target_decodes
    assert speculation.acceptance == 1.0


@given(prompts, drafters, st.integers(1, 12))
def test_the_statistics_add_up(prompt: list[int], drafter: Any, n_batch: int) -> None:
    runner = FakeRunner(n_batch=n_batch)
    done = run(Engine(runner), prompt, max_tokens=25, speculative=drafter)
    if done.speculation is None:
        return
    n_prefill = -(-len(prompt) // n_batch)
    assert done.speculation.target_decodes == len(runner.decoded) - n_prefill + 1
    assert 0 <= done.speculation.accepted_tokens <= done.speculation.drafted_tokens
    ended = done.finish_reason is FinishReason.STOP
    assert done.speculation.target_decodes + done.speculation.accepted_tokens == len(done.tokens) + ended


def test_others_go_before_drafts() -> None:
    """A batch of 4: three decode steps and a prefill leave no place for a guess."""
    runner = FakeRunner(n_batch=4, n_seq_max=4)
    engine = Engine(runner)
    drafting = engine.submit(Request(prompt=Prompt((1,)), max_tokens=30, speculative=Oracle()))
    engine.step()
    engine.submit(Request(prompt=Prompt((2,) * 9), max_tokens=1))
    engine.step()
    assert drafting.seq_id is not None
    assert dict(runner.decoded[-1])[drafting.seq_id] == 1
    assert sum(n for _, n in runner.decoded[-1]) == 4


def test_two_that_draft_share_the_room() -> None:
    runner = FakeRunner(n_batch=10, n_seq_max=2)
    engine = Engine(runner)
    for n in (1, 2):
        engine.submit(Request(prompt=Prompt((n,)), max_tokens=30, speculative=Oracle()))
    engine.step()
    engine.step()
    assert [n for _, n in runner.decoded[-1]] == [5, 5]


# -- how long drafts are

N_DRAFT = 8


class Race:
    """A text of which drafts are right as far as ``right`` says, on a machine of which ``decode`` says what a decode of
    n tokens takes, and ``each`` what a token of a draft takes its drafter.
    """

    def __init__(self, decode: Callable[[int], float], right: Callable[[int], int], each: float = 0.0) -> None:
        self.decode, self.right, self.each = decode, right, each
        self.now = 0.0
        self.asked: list[int] = []
        self.lengths: list[int] = []
        self.drafting = DraftController(self, 100, DecodeCost(), lambda: self.now)

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        place, n = len(tokens), min(n_max, N_DRAFT)
        self.asked.append(place)
        self.now += n * self.each
        n_right = self.right(place)
        return [(place + i) % 50 if i < n_right else 99 for i in range(n)]

    def run(self, n: int) -> float:
        """How many times faster than without drafts ``n`` tokens were."""
        tokens = [0]
        while len(tokens) < n:
            draft = self.drafting.propose(tokens, n - len(tokens), seq_id=0)
            seconds = self.decode(1 + len(draft))
            self.now += seconds
            self.drafting._decode_cost.add(1 + len(draft), seconds)
            right = [token for i, token in enumerate(draft) if token == (len(tokens) + i) % 50]
            if draft:
                self.drafting.verified(len(right))
            tokens += [*right, (len(tokens) + len(right)) % 50]
            self.lengths.append(len(draft))
        return self.decode(1) * n / self.now


def flat(n: int) -> float:
    """Weights are read once, however many tokens there are: a GPU."""
    return 1.0


def steep(n: int) -> float:
    """Few tokens of a batch cost nearly as much as many: a CPU."""
    return 1.0 if n == 1 else 2.5 + 0.25 * n


def always(place: int) -> int:
    return N_DRAFT


def never(place: int) -> int:
    return 0


def test_right_drafts_are_as_long_as_they_can_be() -> None:
    for decode in (flat, steep):
        race = Race(decode, always)
        assert race.run(500) == pytest.approx(9 / decode(9), rel=0.05)
        assert race.lengths[:3] == [0, 8, 8], "the first decode says what one token takes"
        assert race.lengths.count(0) == len(race.lengths) // 65 + 1, "one of 65 says it again"


def test_a_draft_is_as_long_as_pays() -> None:
    """Always five tokens are right, and each of the others costs something."""
    race = Race(lambda n: 1.0 + 0.1 * (n - 1), lambda place: 5)
    race.run(600)
    assert race.lengths[40:].count(5) > 0.9 * len(race.lengths[40:])
    dear = Race(lambda n: 1.0 + 0.9 * (n - 1), lambda place: 5, each=0.2)
    assert dear.run(300) > 0.9
    assert sum(dear.lengths[20:]) == 0


@pytest.mark.parametrize(("decode", "each"), [(flat, 0.2), (steep, 0.0), (steep, 0.2)])
def test_wrong_drafts_cost_little(decode: Callable[[int], float], each: float) -> None:
    race = Race(decode, never, each)
    assert race.run(600) > 0.9
    assert race.drafting.n_drafted < 60


def test_a_dear_drafter_is_asked_less_and_less() -> None:
    race = Race(steep, never, each=0.2)
    race.run(600)
    # After each comparison, which takes one token: 8 tokens without, 16, 32 ...
    assert [b - a for a, b in pairwise(race.asked[2:])] == [9, 17, 33, 65, 129, 257]


def test_a_dear_drafter_that_says_nothing_is_asked_less_and_less() -> None:
    class Silent(Race):
        def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
            draft = super().propose(tokens, n_max, seq_id=seq_id)
            return draft if len(tokens) < 10 else []

    race = Silent(steep, never, each=0.2)
    assert race.run(600) > 0.95
    assert len(race.asked) < 12


@pytest.mark.parametrize(("decode", "each"), [(flat, 0.2), (steep, 0.0), (steep, 0.2)])
def test_a_text_that_changes(decode: Callable[[int], float], each: float) -> None:
    """Nothing is right for 100 tokens, then everything."""
    race = Race(decode, lambda place: N_DRAFT if place >= 100 else 0, each)
    race.run(400)
    without = race.lengths[: race.lengths.index(8, 3)]
    assert 95 < len(without) < (125 if not each else 160)
    assert sum(race.lengths[len(without) :]) > 180


def test_right_in_rows() -> None:
    """Half of all drafts are right, but five in a row: between the rows nearly none is computed."""
    race = Race(steep, lambda place: N_DRAFT if place // 90 % 2 else 0)
    assert race.run(1800) > 1.1


def test_others_in_the_decode_pay_for_the_weights() -> None:
    """Where a few tokens more cost little because others are computed anyway, even poor drafts pay."""

    def propose(n_others: int) -> int:
        pace = DecodeCost()
        for n in range(1, 20):
            pace.add(n, 1.0 if n == 1 else 5.0 + 0.01 * n)
        drafting = DraftController(Says([1, 2]), 10, pace, lambda: 0.0)
        return len(drafting.propose([0], 2, seq_id=0, n_others=n_others))

    assert [propose(0), propose(3)] == [0, 2]


@pytest.mark.parametrize("n_others", [0, 40])
def test_a_draft_is_not_much_longer_than_what_was_measured(n_others: int) -> None:
    """However many tokens of others, as of a prompt, are in the decode with it."""
    race = Race(flat, always)
    cost = race.drafting._decode_cost
    asked = []
    for n_measured in (1, 2, 10, 40):
        cost.add(n_measured, 1.0)
        race.drafting._acceptance = ByPlace()
        asked.append(race.drafting._best(500, n_others + 1))
    assert asked == [15, 15, 39, 159]


def test_no_room_in_memory_is_a_pause() -> None:
    race = Race(flat, always)
    race.run(20)
    race.drafting.pause()
    assert [len(race.drafting.propose([0], 8, seq_id=0)) for _ in range(9)] == [0] * 8 + [8]


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 10)), max_size=30), st.integers(1, 25))
def test_a_pace_stays_with_what_was_measured(measured: list[tuple[int, float]], n: int) -> None:
    pace = DecodeCost()
    for size, seconds in measured:
        pace.add(size, seconds)
    assert pace.knows(n) == any(size <= n for size, _ in measured)
    if measured:
        low, high = min(seconds for _, seconds in measured), max(seconds for _, seconds in measured)
        assert min(low, 1e-9) <= pace.seconds(n)
        assert n > max(size for size, _ in measured) or pace.seconds(n) <= max(high, 1e-9) * (1 + 1e-9)


def test_a_pace() -> None:
    pace = DecodeCost()
    pace.add(2, 1.0)
    assert [pace.seconds(n) for n in (1, 2, 9)] == [1.0, 1.0, 1.0]
    pace.add(6, 3.0)
    assert [pace.seconds(n) for n in (1, 4, 8)] == [1.0, 2.0, 4.0]
    pace.add(6, 1.0)
    assert pace.seconds(6) == 2.0, "what disturbs makes it longer, so the shorter one is believed"
    pace.add(6, 100.0)
    assert pace.seconds(6) == 2.25


# -- several at once


class Shared:
    """Drafts for several texts as :class:`Oracle` does for each, and notes for how many at a time."""

    def __init__(self, errors: Tokens[int], fails: Tokens[int] = ()) -> None:
        self.oracle, self.fails = Oracle(errors), fails
        self.n_texts: list[int] = []
        self.together = self

    def start(self) -> Drafter:
        return self

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        self.n_texts.append(1)
        if tokens[0] in self.fails:
            raise DecodeError("no draft")
        return self.oracle.propose(tokens, n_max, seq_id=seq_id)

    def propose_all(self, wanted: Tokens[Wanted]) -> list[list[int]]:
        assert len({one.seq_id for one in wanted}) == len(wanted)
        if any(one.tokens[0] in self.fails for one in wanted):
            raise DecodeError("no draft for one of them")
        self.n_texts.append(len(wanted))
        return [self.oracle.propose(one.tokens, one.n_max, seq_id=one.seq_id) for one in wanted]


@settings(max_examples=100)
@given(
    st.lists(st.tuples(prompts, st.integers(1, 25)), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=9),
    st.integers(1, 30),
    st.integers(40, 120),
)
def test_drafts_for_several_texts_at_once(
    wanted: list[tuple[list[int], int]], errors: list[int], n_batch: int, n_cells: int
) -> None:
    runner = FakeRunner(n_batch=n_batch, n_ctx=40, n_seq_max=4, n_cells=n_cells)
    engine, source = Engine(runner), Shared(errors)
    sequences = [engine.submit(Request(prompt=Prompt(p), max_tokens=n, speculative=source)) for p, n in wanted]
    for sequence, (prompt, n) in zip(sequences, wanted, strict=True):
        assert list(read(engine, sequence).tokens) == runner.expected(prompt, n, runner.n_ctx)


def test_several_texts_are_asked_for_at_once() -> None:
    engine, source = Engine(FakeRunner(n_batch=64)), Shared((1, 0, 1))
    long = [n for n in range(256) if len(FakeRunner.expected([n], 60, 64)) == 60][:3]
    lengths = dict(zip(long, (20, 40, 60), strict=True))
    for sequence in [
        engine.submit(Request(prompt=Prompt((n,)), max_tokens=length, speculative=source))
        for n, length in lengths.items()
    ]:
        read(engine, sequence)
    assert source.n_texts.count(3) > 3
    assert source.n_texts == sorted(source.n_texts, reverse=True), "fewer when others have ended"
    assert set(source.n_texts) == {1, 2, 3}


def test_a_text_whose_draft_fails_is_found_among_several() -> None:
    engine, source = Engine(FakeRunner(n_batch=64)), Shared((1, 1, 0), fails=(2,))
    sequences = [engine.submit(Request(prompt=Prompt((n,)), max_tokens=30, speculative=source)) for n in (1, 2, 3)]
    for n, sequence in zip((1, 2, 3), sequences, strict=True):
        if n == 2:
            with pytest.raises(DecodeError, match=r"no draft$"):
                read(engine, sequence)
        else:
            assert list(read(engine, sequence).tokens) == FakeRunner.expected([n], 30, 64)
    assert 2 in source.n_texts, "the other two go on together"


# -- failures


@pytest.mark.parametrize("other", [None, [7, 7]], ids=["alone", "with another"])
@pytest.mark.parametrize("error", [DecodeError("no draft"), None], ids=["raises", "no token"])
def test_a_drafter_that_fails_ends_its_own_request(error: LlamaCffiError | None, other: list[int] | None) -> None:
    class Failing(Says):
        def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
            if len(tokens) > 4 and error is not None:
                raise error
            return [300] if len(tokens) > 4 else []

    engine = Engine(FakeRunner())
    good = engine.submit(Request(prompt=Prompt(other), max_tokens=9)) if other else None
    with pytest.raises(type(error or TokenError("")), match="no draft" if error else "token 300"):
        run(engine, prompt_of_length(20), max_tokens=20, speculative=Failing([]))
    if good is not None and other is not None:
        assert list(read(engine, good).tokens) == FakeRunner.expected(other, 9, 64)
    assert engine.idle


def test_a_memory_that_goes_back_to_where_it_was_before_the_draft() -> None:
    runner = FakeRunner(n_batch=32)
    runner.can_cut = runner.can_cut_saved = runner.can_copy = runner.can_pad = False
    prompt = prompt_of_length(20)
    # Two right tokens and a wrong one, again and again.
    engine = Engine(runner)
    run(engine, list(range(20)), max_tokens=3)
    rate = engine._loop.cost.prefill_rate
    runner.decoded.clear()
    done = run(engine, prompt, max_tokens=20, speculative=Oracle((1, 1, 0, 2)))
    assert list(done.tokens) == FakeRunner.expected(prompt, 20, 64)
    assert engine._loop.cost.prefill_rate == rate, "tokens that are computed again are no prompt"
    sizes = [n for decode in runner.decoded for _, n in decode]
    assert 4 in sizes, "a token and its draft of three"
    assert sizes[sizes.index(4) + 1] == 4, "the same but for the wrong token, and the one that is right"


def test_a_piece_of_a_prompt_has_no_draft() -> None:
    runner = FakeRunner(n_batch=63, n_ctx=100, n_seq_max=1)
    runner.can_cut = runner.can_cut_saved = runner.can_copy = runner.can_pad = False
    engine, prompt = Engine(runner, EngineOptions(host_bytes=10_000)), [*range(60), *prompt_of_length(20), *range(9)]
    run(engine, prompt_of_length(20), max_tokens=5)  # nothing is drafted before a decode was measured
    runner.decoded.clear()
    done = run(engine, prompt, max_tokens=10, speculative=Oracle())
    assert list(done.tokens) == FakeRunner.expected(prompt, 10, 100)
    sizes = [n for decode in runner.decoded for _, n in decode]
    assert sizes[:3] == [63, 1, 6], "there is a checkpoint after 64 cells"


def test_right_tokens_that_are_computed_again_are_a_cost() -> None:
    """Where a draft that is partly wrong makes the next decode longer, fewer drafts pay."""

    def length(n_rollback: int | None) -> int:
        cost = DecodeCost()
        for n in range(1, 20):
            cost.add(n, 1.0 + 0.1 * (n - 1))
        drafting = DraftController(Says([1] * 8), 10, cost, lambda: 0.0, n_rollback=n_rollback)
        assert isinstance(drafting._acceptance, ByPlace)
        drafting._acceptance._known = ([0.7] * 8, [0.7] * 8)
        return len(drafting.propose([0], 8, seq_id=0))

    assert length(0) < length(None) == length(8)
