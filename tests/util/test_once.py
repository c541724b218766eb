"""What is made once, also when threads ask for it together."""

from __future__ import annotations

import threading

import pytest

from llama_cffi._util.once import once


def test_threads_that_ask_together_get_one_object() -> None:
    n = 8
    start = threading.Barrier(n)
    inside = threading.Event()

    def make() -> object:
        inside.wait(0.05)  # long enough for the others to arrive
        return object()

    made = once(make)
    found: list[object] = []

    def ask() -> None:
        start.wait()
        found.append(made())

    threads = [threading.Thread(target=ask) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == n
    assert {id(one) for one in found} == {id(made())}


def test_a_failure_is_not_kept() -> None:
    answers = iter([ValueError("not yet"), None])

    def make() -> str | None:
        if (error := next(answers)) is not None:
            raise error
        return None

    made = once(make)
    with pytest.raises(ValueError, match="not yet"):
        made()
    assert made() is None
    assert made() is None  # the function is not called a third time
