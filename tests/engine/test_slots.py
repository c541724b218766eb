"""Which slot a prompt gets, and what it reuses."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.core.conditioning import Conditioning
from llama_cffi.core.prompt import Prompt, common_prefix, reusable
from llama_cffi.engine.fake import FakeRunner, FakeSampler
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot, cells_used, choose_slot

tokens = st.lists(st.integers(0, 2), max_size=40)


def idle(seq_id: int, cached: list[int], last_used: int = 0) -> Slot:
    slot = Slot(seq_id)
    slot.take(busy_sequence(cached))
    slot.release()
    slot.last_used = last_used
    return slot


def busy_sequence(held: list[int]) -> RunningSequence:
    sequence = RunningSequence(Request(prompt=Prompt(held or (0,))), FakeSampler(FakeRunner()), 0, {})
    sequence.n_past = len(held)
    return sequence


def reuse(held: list[int], prompt: list[int], *, can_cut: bool = True) -> int:
    return reusable(Prompt(held), Prompt(prompt), can_cut=can_cut)


@given(tokens, tokens, tokens)
def test_common_prefix_is_the_longest(shared: list[int], a: list[int], b: list[int]) -> None:
    a, b = shared + a, shared + b
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@given(st.lists(tokens, min_size=1, max_size=4), st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_the_longest_prefix_is_reused(cached: list[list[int]], prompt: list[int]) -> None:
    slots = [idle(i, held, last_used=i) for i, held in enumerate(cached)]
    choice = choose_slot(slots, Prompt(prompt))
    assert choice is not None
    slot, source, n = choice
    assert n == min(max(common_prefix(held, prompt) for held in cached), len(prompt) - 1)
    assert (source or slot).held[:n] == tuple(prompt[:n])
    assert source is not slot


def test_a_slot_in_use_is_copied_from_and_never_taken() -> None:
    running = Slot(0)
    running.take(busy_sequence([1, 2, 3, 4]))
    assert choose_slot([running], Prompt([1, 2, 3, 9])) is None
    free = Slot(1)
    assert choose_slot([running, free], Prompt([1, 2, 3, 9])) == (free, running, 3)


def test_a_long_memory_is_not_used_up_for_a_short_prefix() -> None:
    long, spare = idle(0, [1] * 30, last_used=5), idle(1, [2, 2])
    assert choose_slot([long, spare], Prompt([1, 1, 9])) == (spare, long, 2)
    assert choose_slot([long], Prompt([1, 1, 9])) == (long, None, 2)


def test_without_a_common_prefix_empty_slots_come_first_and_then_the_oldest() -> None:
    new, old, empty = idle(0, [5], last_used=9), idle(1, [6], last_used=2), Slot(2)
    assert choose_slot([new, old, empty], Prompt([1])) == (empty, None, 0)
    assert choose_slot([new, old], Prompt([1])) == (old, None, 0)


def test_the_last_prompt_token_is_always_computed() -> None:
    assert choose_slot([idle(0, [1, 2, 3])], Prompt([1, 2, 3])) is not None
    _, source, n = choose_slot([idle(0, [1, 2, 3])], Prompt([1, 2, 3])) or (None, None, -1)
    assert source is None
    assert n == 2


def test_a_slot_released_without_keeping_holds_nothing() -> None:
    slot = Slot(0)
    slot.take(busy_sequence([1, 2]))
    slot.release(keep=False)
    assert slot.held == ()


def test_what_cannot_be_copied_is_used_up() -> None:
    long, empty, running = idle(0, [1] * 30), Slot(1), Slot(2)
    running.take(busy_sequence([1] * 9))
    assert choose_slot([long, empty], Prompt([1, 1, 9])) == (empty, long, 2)
    assert choose_slot([running, long, empty], Prompt([1, 1, 9]), can_copy=False) == (long, None, 2)
    assert choose_slot([running, empty], Prompt([1, 1, 9]), can_copy=False) == (empty, None, 0)


def test_what_other_adapters_computed_is_no_prefix() -> None:
    plain, changed = idle(0, [1, 2, 3], last_used=1), idle(1, [1, 2, 3], last_used=2)
    one, other = Conditioning((("a", 1.0),)), Conditioning((("b", 1.0),))  # type: ignore[arg-type]
    changed._conditioning = one
    assert choose_slot([plain, changed], Prompt([1, 2, 3, 4])) == (plain, None, 3)
    assert choose_slot([plain, changed], Prompt([1, 2, 3, 4]), one) == (changed, None, 3)
    assert choose_slot([plain, changed], Prompt([1, 2, 3, 4]), other) == (plain, None, 0)


def test_what_cannot_be_cut_serves_only_what_goes_on_from_its_end() -> None:
    assert reuse([1, 2, 3], [1, 2, 3, 4]) == reuse([1, 2, 3], [1, 2, 3, 4], can_cut=False) == 3
    assert (reuse([1, 2, 3], [1, 2, 9]), reuse([1, 2, 3], [1, 2, 9], can_cut=False)) == (2, 0)
    assert (reuse([1, 2, 3], [1, 2, 3]), reuse([1, 2, 3], [1, 2, 3], can_cut=False)) == (2, 0)
    long, short = idle(0, [1, 2, 3, 4, 5]), idle(1, [1, 2])
    assert choose_slot([long, short], Prompt([1, 2, 3, 4, 9]), can_copy=False, can_cut=False) == (short, None, 2)


def test_a_slot_whose_memory_was_replaced() -> None:
    slot = idle(0, [1, 2])
    slot.fill(Prompt((5, 6, 7)))
    assert slot.held == (5, 6, 7)


# -- cells that slots share


changes = st.lists(
    st.tuples(
        st.sampled_from(["grow", "cut", "share", "forget"]), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)
    ),
    max_size=40,
)


@given(changes)
def test_shared_cells_are_counted_once(changes: list[tuple[str, int, int, int]]) -> None:
    """Beside a memory in which every cell has a name."""
    slots, names = [Slot(i) for i in range(4)], [list[int]() for _ in range(4)]
    fresh = count()
    for what, i, j, n in changes:
        slot, held = slots[i], names[i]
        if what == "grow":
            held.extend(next(fresh) for _ in range(n))
        elif what == "cut":
            del held[n:]
            slot.cut(n)
        elif what == "share" and i != j:
            n = min(n, len(names[j]))
            held[:] = names[j][:n]
            slot.share(slots[j], n)
        elif what == "forget":
            held.clear()
            slot.release(keep=False)
        slot._held = Prompt(held)
        assert cells_used((one.shared, one.n_cells) for one in slots) == len(set().union(*names))


@given(
    st.lists(tokens, min_size=1, max_size=4),
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_slot_that_is_wanted(cached: list[list[int]], prompt: list[int], wanted: int, can_copy: bool) -> None:
    slots = [idle(i, held, last_used=i) for i, held in enumerate(cached)]
    choice = choose_slot(slots, Prompt(prompt), wanted=wanted, can_copy=can_copy)
    if wanted >= len(slots):
        assert choice == choose_slot(slots, Prompt(prompt), can_copy=can_copy)
        return
    assert choice is not None
    slot, source, n = choice
    assert slot is slots[wanted]
    usable = cached if can_copy else [cached[wanted]]
    assert n == min(max(common_prefix(held, prompt) for held in usable), len(prompt) - 1)
    assert (source or slot).held[:n] == tuple(prompt[:n])
    assert source is not slot
    assert source is None or common_prefix(slot.held, prompt) < n


def test_a_wanted_slot_in_use_is_not_waited_for() -> None:
    running, free = Slot(0), Slot(1)
    running.take(busy_sequence([1, 2, 3, 4]))
    assert choose_slot([running, free], Prompt([1, 2, 3, 9]), wanted=0) == (free, running, 3)
