"""Handle: freed once, children first, however it comes about."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from llama_cffi._native import atomic, shutdown
from llama_cffi._native import gate as handle_gate
from llama_cffi._native import handle as handle_module
from llama_cffi._native.handle import Handle
from llama_cffi.errors import BusyError, ClosedError, InUseError


def make(name: str, free: Callable[[str], object], *parents: Handle, gate: Gate | None = None) -> Handle:
    """A handle of an object that is its name."""
    handle = Handle(name, partial(atomic.free, free), parents, gate)
    atomic.keep(handle.cell, str, name)
    handle.open(name)
    return handle


class Freed(list[str]):
    """Names in the order in which their handles were freed."""

    def make(self, name: str, *parents: Handle, gate: Gate | None = None) -> Handle:
        return make(name, self.append, *parents, gate=gate)


class Gate(handle_gate.Gate):
    """Counts who passes; refuses while ``inside``."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.inside = False
        self.release = partial(self.events.append, "release")

    def acquire(self) -> None:
        if self.inside:
            raise BusyError("inside")
        self.events.append("acquire")

    def stop(self) -> bool:
        return not self.inside


def test_close_frees_once() -> None:
    freed = Freed()
    handle = freed.make("a")
    assert handle.ptr == "a"
    assert not handle.closed
    handle.close()
    handle.close()
    assert handle.closed
    assert freed == ["a"]
    with pytest.raises(ClosedError, match="this a is closed"):
        handle.ptr  # noqa: B018
    assert repr(handle) == "<Handle a closed>"


def test_dropping_frees() -> None:
    freed = Freed()
    handle = freed.make("a")
    del handle
    gc.collect()
    assert freed == ["a"]


def test_children_are_closed_first_newest_first() -> None:
    freed = Freed()
    parent = freed.make("parent")
    children = [freed.make(f"child {i}", parent) for i in range(3)]
    grandchild = freed.make("grandchild", children[1])
    parent.close()
    assert freed == ["child 2", "grandchild", "child 1", "child 0", "parent"]
    assert all(child.closed for child in (*children, grandchild))


def test_a_child_of_two_parents() -> None:
    freed = Freed()
    one, two = freed.make("one"), freed.make("two")
    child = freed.make("child", one, two)
    two.close()
    assert freed == ["child", "two"]
    one.close()
    assert freed == ["child", "two", "one"]
    assert child.closed


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))], ids=str)
def test_parents_outlive_children_in_any_order_of_dropping(order: tuple[int, ...]) -> None:
    freed = Freed()
    model = freed.make("model")
    handles: list[Handle | None] = [model, freed.make("context", model), freed.make("chain", model)]
    del model
    for i in order:
        handles[i] = None
    gc.collect()
    assert sorted(freed) == ["chain", "context", "model"]
    assert freed[-1] == "model"


def test_parents_outlive_children_in_a_cycle() -> None:
    class NativeObject:
        handle: Handle
        others: list[NativeObject]

    freed = Freed()
    owners = [NativeObject() for _ in range(4)]
    owners[0].handle = freed.make("model")
    for i in (1, 2, 3):
        owners[i].handle = freed.make(f"child {i}", owners[0].handle)
    for owner in owners:
        owner.others = owners
    gc.disable()
    try:
        del owner, owners
        assert freed == []
        gc.collect()
    finally:
        gc.enable()
    assert len(freed) == 4
    assert freed[-1] == "model"


def test_nothing_keeps_an_owner_alive() -> None:
    class NativeObject:
        def __init__(self, *parents: Handle) -> None:
            self.handle = Freed().make("x", *parents)

    parent = NativeObject()
    child = NativeObject(parent.handle)
    references = [weakref.ref(parent), weakref.ref(child)]
    del parent, child
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_closed_parent_gets_no_children() -> None:
    freed = Freed()
    parent = freed.make("parent")
    parent.close()
    with pytest.raises(ClosedError, match="this parent is closed"):
        freed.make("child", parent)
    assert freed == ["parent"]


def test_what_is_attached_cannot_be_closed() -> None:
    freed, user = Freed(), object()
    handle = freed.make("adapter")
    handle.attach(user, "a Context uses it")
    with pytest.raises(InUseError, match="this adapter is in use: a Context uses it"):
        handle.close()
    assert not handle.closed
    handle.detach(user)
    handle.detach(user)
    handle.close()
    assert freed == ["adapter"]
    with pytest.raises(ClosedError):
        handle.attach(user, "again")


def test_a_gate_is_passed_on_the_way() -> None:
    freed, gate = Freed(), Gate()
    parent = freed.make("parent")
    child = freed.make("child", parent, gate=gate)
    gate.inside = True
    for handle in (child, parent):
        with pytest.raises(BusyError, match="inside"):
            handle.close()
    assert freed == []
    assert not child.closed
    assert not parent.closed
    gate.inside = False
    parent.close()
    assert gate.events == ["acquire", "release"]
    assert freed == ["child", "parent"]


def test_a_failing_free_still_lets_the_parent_go() -> None:
    def fail(ptr: str) -> None:
        raise LookupError(ptr)

    freed = Freed()
    parent = freed.make("parent")
    child = make("child", fail, parent)
    with pytest.raises(LookupError):
        child.close()
    assert child.closed
    parent.close()
    assert freed == ["parent"]


def test_many_threads_close_at_once() -> None:
    for _ in range(50):
        freed = Freed()
        parent = freed.make("parent")
        children = [freed.make("child", parent) for _ in range(4)]
        barrier = threading.Barrier(5)

        def close(handle: Handle, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            handle.close()

        threads = [threading.Thread(target=close, args=(handle,)) for handle in (parent, *children)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert freed == ["child"] * 4 + ["parent"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_another_process_frees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = Freed()
    handle = freed.make("a")
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    handle.close()
    assert freed == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_another_process_does_not_wait_for_who_was_making_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = Freed()
    parent = freed.make("parent")
    child = Handle("child", partial(atomic.free, freed.append), (parent,))
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    closing = threading.Thread(target=parent.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    assert parent.closed
    assert child.closed
    assert freed == []


def test_a_child_made_while_the_gate_is_awaited_goes_first() -> None:
    freed = Freed()

    class Late(Gate):
        def acquire(self) -> None:
            super().acquire()
            if not children:
                children.append(freed.make("child", parent))

    children: list[Handle] = []
    gate = Late()
    parent = freed.make("parent", gate=gate)
    parent.close()
    assert freed == ["child", "parent"]
    assert gate.events == ["acquire", "release"] * 2


@pytest.fixture
def exit_now(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What the end of the interpreter does, with the handles of one test."""
    monkeypatch.setattr(handle_module, "_owners", {})
    ending = threading.Event()
    for name, value in (("_ending", ending), ("begin", ending.set), ("begun", ending.is_set)):
        monkeypatch.setattr(shutdown, name, value)
    monkeypatch.setattr(shutdown, "STOP_SECONDS", 0.01)
    return lambda: handle_module._at_exit(handle_module._Exit())


def test_exit_frees_the_newest_first(exit_now: Callable[[], None]) -> None:
    freed = Freed()
    parent = freed.make("parent", gate=Gate())
    child = freed.make("child", parent, gate=Gate())
    exit_now()
    assert freed == ["child", "parent"]
    assert parent.closed
    assert child.closed
    with pytest.raises(ClosedError, match="the interpreter is ending"):
        child.ptr  # noqa: B018


def test_exit_frees_nothing_while_a_thread_cannot_be_stopped(exit_now: Callable[[], None]) -> None:
    freed, gate = Freed(), Gate()
    gate.inside = True
    parent = freed.make("parent")
    child = freed.make("child", parent, gate=gate)
    exit_now()
    del child, parent
    gc.collect()
    assert freed == []


def test_exit_goes_on_after_an_interrupt(exit_now: Callable[[], None]) -> None:
    class Interrupted(Gate):
        def stop(self) -> bool:
            self.events.append("stop")
            if len(self.events) < 3:
                raise KeyboardInterrupt
            return True

    freed = Freed()
    handle = freed.make("a", gate=Interrupted())
    exit_now()
    assert freed == ["a"]
    assert handle.closed


def test_other_threads_end_silently_at_exit(exit_now: Callable[[], None]) -> None:
    handle = Freed().make("a")
    exit_now()
    with ThreadPoolExecutor() as pool:
        assert isinstance(pool.submit(lambda: handle.ptr).exception(), SystemExit)


def test_interrupts_while_freeing_are_raised_when_all_is_freed() -> None:
    def free(cell: list[str]) -> None:
        steps.append(len(cell))
        if len(steps) == 1:
            raise KeyboardInterrupt
        cell.clear()

    steps: list[int] = []
    handle = Handle("a", free)
    handle.cell.append("a")
    with pytest.raises(KeyboardInterrupt):
        handle.close()
    assert steps == [1, 1]
    handle.close()
    assert steps == [1, 1]


def test_interrupts_while_a_dropped_object_is_freed_come_out_of_the_code_that_dropped_it() -> None:
    def free(cell: list[str]) -> None:
        steps.append(len(cell))
        if len(steps) == 1:
            raise OSError(7, "from a signal handler")
        cell.clear()

    steps: list[int] = []
    handle: Handle | None = Handle("a", free)
    assert handle is not None
    handle.cell.append("a")

    def drop() -> None:
        nonlocal handle
        handle = None
        for _ in range(2):
            pass

    with pytest.raises(OSError, match="from a signal handler") as caught:
        drop()
    assert caught.value.errno == 7
    assert steps == [1, 1]


def test_an_exception_that_was_raised_later_is_raised_later_again() -> None:
    caught: list[BaseException] = []
    error: BaseException = KeyError("lost")
    for _ in range(3):
        try:
            atomic.raise_later(error)
            for _ in range(1000):
                len(caught)
        except KeyError as found:
            error = found
            caught.append(found)
    assert [one.args for one in caught] == [("lost",)] * 3
