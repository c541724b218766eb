"""Gates: who frees a native object waits for those who are inside."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llama_cffi._native.gate import ExclusiveGate, SharedGate
from llama_cffi.errors import BusyError, ClosedError


@pytest.mark.parametrize("gate", [SharedGate(), ExclusiveGate()], ids=["shared", "exclusive"])
def test_freeing_waits_for_who_is_inside(gate: SharedGate | ExclusiveGate) -> None:
    events: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    def visit() -> None:
        with gate:
            entered.set()
            leave.wait(10)
            events.append("left")

    def free() -> None:
        gate.acquire()
        events.append("freed")
        gate.release()

    visitor, closer = threading.Thread(target=visit), threading.Thread(target=free)
    visitor.start()
    assert entered.wait(10)
    closer.start()
    closer.join(0.05)
    assert events == []
    leave.set()
    visitor.join()
    closer.join()
    assert events == ["left", "freed"]
    with gate:
        events.append("open again")
    gate.acquire()
    gate.release()


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_closer_interrupts_those_inside(kind: str) -> None:
    leave, entered = threading.Event(), threading.Event()
    gate = SharedGate(leave.set) if kind == "shared" else ExclusiveGate("object", leave.set)

    def visit() -> None:
        with gate:
            entered.set()
            assert leave.wait(30)

    with ThreadPoolExecutor(1) as pool:
        visitor = pool.submit(visit)
        assert entered.wait(30)
        gate.acquire()  # returns, because the visitor was asked to leave
        gate.release()
        visitor.result(30)
        leave.clear()
        entered.clear()
        visitor = pool.submit(visit)
        assert entered.wait(30)
        while not gate.stop():
            assert leave.is_set()
        visitor.result(30)


@pytest.mark.parametrize("gate", [SharedGate(), ExclusiveGate()], ids=["shared", "exclusive"])
def test_nobody_frees_what_he_is_inside(gate: SharedGate | ExclusiveGate) -> None:
    with gate, pytest.raises(BusyError, match="inside its own call"):
        gate.acquire()
    gate.acquire()
    gate.release()


def test_who_comes_while_it_is_freed_finds_it_closed() -> None:
    waiting = threading.Event()
    gate = ExclusiveGate("Thing", waiting.set)
    with ThreadPoolExecutor() as pool:
        with gate:
            closer = pool.submit(gate.acquire)
            assert waiting.wait(10)
            with pytest.raises(ClosedError, match="this Thing is closed"):
                pool.submit(gate.__enter__).result()
        closer.result()
        with pytest.raises(ClosedError, match="this Thing is closed"):
            gate.__enter__()


def test_who_could_not_free_it_leaves_it_as_it_was() -> None:
    gate = ExclusiveGate()
    with gate:
        with pytest.raises(BusyError, match="inside its own call"):
            gate.acquire()
        with ThreadPoolExecutor() as pool, pytest.raises(BusyError, match="another thread"):
            pool.submit(gate.__enter__).result()


def test_many_share_a_shared_gate() -> None:
    gate, barrier = SharedGate(), threading.Barrier(3, timeout=10)
    passed: list[int] = []

    def visit(number: int) -> None:
        with gate, gate:
            barrier.wait()
            passed.append(number)

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(passed) == [0, 1, 2]


def test_one_at_a_time_in_an_exclusive_gate() -> None:
    gate = ExclusiveGate()
    with gate:
        with pytest.raises(BusyError, match="already"):
            gate.__enter__()
        with ThreadPoolExecutor() as pool, pytest.raises(BusyError, match="another thread"):
            pool.submit(gate.__enter__).result()
    with gate:
        pass


@pytest.mark.parametrize("gate", [SharedGate(), ExclusiveGate()], ids=["shared", "exclusive"])
def test_exceptions_come_out_of_a_gate(gate: SharedGate | ExclusiveGate) -> None:
    with pytest.raises(LookupError), gate:
        raise LookupError
    assert gate.close() is None if isinstance(gate, ExclusiveGate) else not gate._inside


def test_a_thread_that_is_inside_may_come_in_again_and_stays_inside() -> None:
    gate = ExclusiveGate()
    with gate.inside():
        with pytest.raises(LookupError), gate.inside():
            raise LookupError
        with pytest.raises(BusyError, match="already"), gate:
            pass
        with ThreadPoolExecutor() as pool, pytest.raises(BusyError, match="another thread"):
            pool.submit(gate.__enter__).result()
    with ThreadPoolExecutor() as pool:
        pool.submit(gate.__enter__).result()
