"""Handle: freed once, children first, however it comes about."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref

import pytest

from llama_cffi._native import handle as handle_module
from llama_cffi._native.handle import Handle
from llama_cffi.errors import BusyError, ClosedError, InUseError


class Freed(list[str]):
    """Names in the order in which their handles were freed."""

    def make(self, name: str, *parents: Handle, gate: Gate | None = None) -> Handle:
        return Handle(name, name, self.append, parents, gate)


class Gate:
    """Counts who passes; refuses while ``inside``."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.inside = False

    def acquire(self) -> None:
        if self.inside:
            raise BusyError("inside")
        self.events.append("acquire")

    def release(self) -> None:
        self.events.append("release")

    def shut(self) -> None:
        self.events.append("shut")


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


def test_forget_gives_the_pointer_away() -> None:
    freed = Freed()
    parent = freed.make("parent")
    child = freed.make("child", parent)
    assert child.forget() == "child"
    assert child.closed
    with pytest.raises(ClosedError):
        child.forget()
    parent.close()
    del child
    gc.collect()
    assert freed == ["parent"]


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
    child = Handle("child", "child", fail, (parent,))
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


def test_at_the_end_under_daemon_threads_nothing_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    freed, gate = Freed(), Gate()
    handle = freed.make("a", gate=gate)
    monkeypatch.setattr(handle_module, "_ending_with_threads", lambda: True)
    del handle
    gc.collect()
    assert freed == []
    assert gate.events == ["shut"]
