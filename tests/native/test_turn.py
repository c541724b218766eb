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


def test_between_turns_a_function_is_called_and_in_a_turn_it_is_not(kind: ModuleType) -> None:
    turns, called = Turns(kind), []
    note = kind.ffi.callback("void(void *)", lambda argument: called.append(int(kind.ffi.cast("uintptr_t", argument))))

    def between() -> None:
        address = kind.ffi.cast("void *", note)
        turns.lib.lch_turn_between(turns.turn, address, kind.ffi.cast("void *", 7))

    between()
    assert called == [7]
    assert turns.take() == TAKEN
    thread = threading.Thread(target=between)
    thread.start()
    thread.join()
    assert called == [7]
    turns.give()
    between()
    assert called == [7, 7]
    assert turns.take() == TAKEN
