"""What had to leave the context's memory, and is found again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, reusable
from llama_cffi.engine.host_cache import MIN_TOKENS, HostCache, HostMemory, usual_bytes

OTHER = Conditioning((("a", 1.0),))  # type: ignore[arg-type]


def memory(start: int, n: int, size: int = 10, conditioning: Conditioning = PLAIN) -> HostMemory:
    return HostMemory(Prompt(range(start, start + n)), bytes(size), conditioning)


def test_the_longest_beginning_is_found() -> None:
    cache = HostCache(1000, can_cut=True)
    short, long = memory(0, 100), HostMemory(Prompt((*range(150), 7)), bytes(10))
    cache.add(short)
    cache.add(long)
    assert len(cache) == 1  # the long one holds the short one
    assert cache.find(Prompt(range(300)), PLAIN, 0) is long
    assert cache.find(Prompt(range(300)), PLAIN, 150 - MIN_TOKENS) is long
    assert cache.find(Prompt(range(300)), PLAIN, 150 - MIN_TOKENS + 1) is None
    assert cache.find(Prompt(range(300)), OTHER, 0) is None
    assert cache.find(Prompt(range(5, 300)), PLAIN, 0) is None


def test_what_cannot_be_cut_serves_what_goes_on_from_it() -> None:
    cache = HostCache(1000, can_cut=False)
    short, long = memory(0, 100), memory(0, 150)
    cache.add(short)
    cache.add(long)
    assert len(cache) == 2
    assert cache.find(Prompt(range(300)), PLAIN, 0) is long
    assert cache.find(Prompt(range(120)), PLAIN, 0) is short


def test_the_oldest_goes_for_room() -> None:
    cache = HostCache(100)
    kept = [memory(1000 * i, 100, size=40) for i in range(3)]
    cache.add(kept[0])
    cache.add(kept[1])
    cache.used(kept[0])
    cache.add(kept[2])
    assert cache.nbytes == 80
    assert cache.find(Prompt(range(1000, 1200)), PLAIN, 0) is None
    assert cache.find(Prompt(range(200)), PLAIN, 0) is kept[0]
    cache.add(memory(9000, 100, size=101))  # larger than all there is room for
    assert cache.nbytes == 80
    cache.clear()
    assert len(cache) == cache.nbytes == 0


def test_what_is_worth_a_copy() -> None:
    cache = HostCache(1000)
    held = Prompt(range(200))
    assert cache.missing(held, PLAIN) == 200
    assert cache.missing(Prompt(range(MIN_TOKENS - 1)), PLAIN) == 0
    assert cache.missing(held, PLAIN, [Prompt(range(150)), Prompt(range(20))]) == 50
    assert cache.missing(held, PLAIN, [Prompt(range(300))]) == 0
    cache.add(HostMemory(held, bytes(9)))
    assert cache.missing(held, PLAIN) == 0
    assert cache.missing(held, OTHER) == 200
    assert HostCache(0).missing(held, PLAIN) == 0
    uncut = HostCache(1000, can_cut=False)
    uncut.add(HostMemory(Prompt(range(150)), bytes(9)))
    assert uncut.missing(held, PLAIN) == 200
    assert uncut.missing(Prompt(range(150)), PLAIN) == 0


prompts = st.builds(lambda start, n: Prompt([start, *range(n)]), st.integers(0, 2), st.integers(0, 200))


@given(st.lists(st.tuples(prompts, st.integers(0, 60)), max_size=12), prompts, st.integers(0, 100), st.booleans())
def test_what_is_found_is_the_best_there_is(
    added: list[tuple[Prompt, int]], wanted: Prompt, held: int, can_cut: bool
) -> None:
    cache = HostCache(150, can_cut=can_cut)
    for prompt, size in added:
        cache.add(HostMemory(prompt, bytes(size)))
        assert cache.nbytes <= 150
    found = cache.find(wanted, PLAIN, held)
    best = max((reusable(one.prompt, wanted, can_cut=can_cut) for one in cache._kept), default=0)
    assert (found is None) == (best < held + MIN_TOKENS)
    if found is not None:
        assert reusable(found.prompt, wanted, can_cut=can_cut) == best


def test_the_usual_budget() -> None:
    assert 0 < usual_bytes() <= 4 * 2**30


def part_of(start: int, n: int, size: int = 100) -> HostMemory:
    return HostMemory(Prompt(range(start, start + n)), bytes(size), PLAIN, bytes(10))


def test_a_beginning_is_kept_beside_what_goes_on_from_it() -> None:
    cache = HostCache(10_000, can_cut=False)
    cache.add(part_of(0, 100))
    cache.add(part_of(0, 150))
    cache.add(part_of(5000, 80))
    cache.add(part_of(0, 200))
    cache.add(part_of(0, 120))
    assert cache.nbytes == 10 + 10 + 110 + 110 + 10
    for n in (100, 120, 150, 200):
        found = cache.find(Prompt(range(n + 1)), PLAIN, 0)
        assert found is not None
        assert len(found.prompt) == n
        base = found.base or found
        assert base.data is not None
        assert len(base.prompt) == 200


def test_what_is_used_keeps_what_it_is_beside() -> None:
    cache = HostCache(240, can_cut=False)
    cache.add(part_of(0, 100))
    cache.add(part_of(0, 150))
    cache.add(part_of(5000, 80))
    beginning = cache.find(Prompt(range(101)), PLAIN, 0)
    assert beginning is not None
    cache.used(beginning)
    cache.add(part_of(9000, 80))  # for which the one at 5000 goes
    assert cache.find(Prompt(range(101)), PLAIN, 0) is beginning
    assert cache.find(Prompt(range(5000, 5100)), PLAIN, 0) is None
    cache.add(part_of(7000, 80))
    assert cache.find(Prompt(range(101)), PLAIN, 0) is None, "it goes with the one that it was beside"
    assert len(cache) == 2


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(64, 90), st.integers(1, 60), st.booleans()), max_size=25))
def test_nothing_is_beside_what_is_not_there(wanted: list[tuple[int, int, int, bool]]) -> None:
    cache = HostCache(200, can_cut=False)
    for start, n, size, used in wanted:
        cache.add(part_of(1000 * start, n, size))
        found = cache.find(Prompt(range(1000 * start, 1000 * start + n + 1)), PLAIN, 0)
        if found is not None and used:
            cache.used(found)
        assert cache.nbytes <= 200
        for one in cache._kept:
            assert (one.base is None) == (one.data is not None)
            if one.base is not None:
                assert one.base in cache._kept
                assert one.base.prompt[: len(one.prompt)] == one.prompt
