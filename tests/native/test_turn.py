"""Turns: one thread at a time, first come, first served, with the helpers in C++ and in Python."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

TAKEN, STOPPED, NESTED = 0, -24, -25


@pytest.fixture(params=["compiled", "pure"])
def kind(request: pytest.FixtureRequest) -> ModuleType:
    try:
        return importlib.import_module(f"llama_cffi._native.{request.param}")
    except ImportError:
        pytest.skip("there is no compiled extension")


class Turns:
    """A turn, and threads that take it."""

    def __init__(self, kind: ModuleType) -> None:
        self.kind, self.lib = kind, kind.lib
        self.turn = kind.lib.lch_turn_new()
        self.order: list[int] = []

    def flag(self) -> Any:
        flag = self.kind.new("lch_abort")
        self.lib.lch_abort_arm(flag)
        return flag

    def take(self, flag: Any = None) -> int:
        return int(self.lib.lch_turn_take(self.turn, flag if flag is not None else self.flag()))

    def give(self) -> None:
        self.lib.lch_turn_give(self.turn)

    def wait(self, n: int) -> None:
        for _ in range(2000):
            if self.lib.lch_turn_waiting(self.turn) == n:
                return
            time.sleep(0.002)
        raise AssertionError(f"{self.lib.lch_turn_waiting(self.turn)} threads wait, not {n}")

    def start(self, body: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def turns(kind: ModuleType) -> Turns:
    return Turns(kind)


def test_one_at_a_time(turns: Turns) -> None:
    inside: list[int] = []

    def body() -> None:
        for _ in range(50):
            assert turns.take() == TAKEN
            inside.append(1)
            assert len(inside) == 1
            inside.pop()
            turns.give()

    threads = [turns.start(body) for _ in range(4)]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert turns.take() == TAKEN


def test_first_come_first_served(turns: Turns) -> None:
    assert turns.take() == TAKEN

    def body(number: int) -> None:
        assert turns.take() == TAKEN
        turns.order.append(number)
        turns.give()

    threads = []
    for number in range(5):
        threads.append(turns.start(lambda number=number: body(number)))  # type: ignore[misc]
        turns.wait(number + 1)
    turns.give()
    for thread in threads:
        thread.join(60)
    assert turns.order == list(range(5))


def test_who_gives_waits_behind_those_that_wait(turns: Turns) -> None:
    """Otherwise a thread that computes step after step would keep the others out."""
    assert turns.take() == TAKEN

    def body() -> None:
        assert turns.take() == TAKEN
        turns.order.append(1)
        turns.give()

    thread = turns.start(body)
    turns.wait(1)
    turns.give()
    assert turns.take() == TAKEN
    turns.order.append(2)
    turns.give()
    thread.join(60)
    assert turns.order == [1, 2]


def test_a_thread_that_has_it_gets_no_second_one(turns: Turns) -> None:
    assert turns.take() == TAKEN
    assert turns.take() == NESTED
    turns.give()
    assert turns.take() == TAKEN


def test_a_flag_ends_the_wait_of_its_thread_alone(turns: Turns) -> None:
    assert turns.take() == TAKEN
    flags, results = [turns.flag() for _ in range(3)], {}

    def body(i: int) -> None:
        results[i] = turns.take(flags[i])
        if results[i] == TAKEN:
            turns.give()

    threads = []
    for i in range(3):
        threads.append(turns.start(lambda i=i: body(i)))  # type: ignore[misc]
        turns.wait(i + 1)
    turns.lib.lch_abort_set(flags[0], 1)
    turns.wait(2)
    turns.give()
    for thread in threads:
        thread.join(60)
    assert results == {0: STOPPED, 1: TAKEN, 2: TAKEN}


def test_a_deadline_ends_the_wait(turns: Turns) -> None:
    assert turns.take() == TAKEN
    results: list[int] = []
    flag = turns.flag()
    turns.lib.lch_abort_deadline(flag, turns.lib.lch_abort_now() + 20_000_000)
    thread = turns.start(lambda: results.append(turns.take(flag)))
    thread.join(60)
    assert results == [STOPPED]


def test_the_number_of_codes_is_theirs_alone(kind: ModuleType) -> None:
    lib = kind.lib
    assert (lib.LCH_TURN_TAKEN, lib.LCH_TURN_STOPPED, lib.LCH_TURN_NESTED) == (TAKEN, STOPPED, NESTED)
    others = [
        *(lib.LCH_STEP_STATUS, lib.LCH_STEP_NO_ROW, lib.LCH_STEP_SHUT, lib.LCH_DOOR_BUSY, lib.LCH_DOOR_COMPUTING),
        *(lib.LCH_DOOR_FORKED, lib.LCH_SELECT_NAN, lib.LCH_SELECT_EMPTY, lib.LCH_SELECT_INF, lib.LCH_SELECT_MEMORY),
    ]
    assert not {STOPPED, NESTED} & set(others)


class Pool:
    """What looks like the handle of a thread pool."""

    def __init__(self, kind: ModuleType, number: int) -> None:
        self.ptr = kind.ffi.cast("void *", number)


def test_its_pools_can_be_paused(kind: ModuleType) -> None:
    turns, paused = Turns(kind), list[int]()
    note = kind.ffi.callback("void(void *)", lambda pool: paused.append(int(kind.ffi.cast("uintptr_t", pool))))
    pools = [Pool(kind, number) for number in (7, 8)]
    for pool in pools:
        turns.lib.lch_turn_add(turns.turn, kind.ffi.cast("void *", note), kind.pool(pool))
    assert turns.take() == TAKEN
    turns.lib.lch_turn_pause(turns.turn)
    assert paused == [7, 8]
    turns.lib.lch_turn_remove(turns.turn, pools.pop(0).ptr)
    turns.lib.lch_turn_pause(turns.turn)
    assert paused == [7, 8, 8]


def test_without_the_helpers_pools_are_paused_after_each_decode_beside_an_encoding() -> None:
    """There an encoding takes no turn, in which it could pause them itself."""
    from llama_cffi._native import pure

    turns, paused, order = Turns(pure), list[int](), list[Any]()
    note = pure.ffi.callback("void(void *)", lambda pool: paused.append(int(pure.ffi.cast("uintptr_t", pool))))
    pool = Pool(pure, 7)
    turns.lib.lch_turn_add(turns.turn, note, pool)

    def decode() -> None:
        assert turns.lib.lch_compute(turns.turn, turns.flag(), lambda ctx, batch: 3, None, [None], 0) == 3
        order.append(len(paused))

    def encode(word: int) -> int:
        order.append(len(paused))
        decode()
        decode()
        return word

    encoding = pure.new("lch_encoding")
    encoding.turns = pure.turns([turns.turn])
    function = pure.ffi.callback("long long(long long)", encode)
    decode()
    assert turns.lib.lch_encode(encoding, 0, function, turns.lib.LCH_INT64, 9, *[0] * 7) == 9
    decode()
    assert order == [0, 1, 2, 3, 3]
    assert not turns.turn.encodings


def test_the_time_of_waiting_is_added_up(turns: Turns) -> None:
    assert turns.take() == TAKEN
    flag, results = turns.flag(), list[int]()
    thread = turns.start(lambda: results.append(turns.take(flag)))
    turns.wait(1)
    time.sleep(0.02)
    turns.give()
    thread.join(60)
    assert results == [TAKEN]
    assert flag.waited_ns >= 20_000_000
