"""Threads that work off a list of jobs."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

import pytest

from llama_cffi._util.worker import ThreadPool, with_stack, work_off
from tests.support.children import run_child


def never() -> None:
    raise AssertionError("nobody was to be stopped")


def test_every_job_is_done_once_by_whoever_is_free() -> None:
    done: list[tuple[int, int]] = []
    meeting = threading.Barrier(3, timeout=10)

    def work(job: int) -> None:
        if job < 3:
            meeting.wait()  # only three at the same time come through
        done.append((job, threading.get_ident()))

    work_off(range(20), [work] * 3, never)
    assert sorted(job for job, _ in done) == list(range(20))
    assert threading.get_ident() in {thread for _, thread in done}
    assert len({thread for job, thread in done if job < 3}) == 3


def test_fewer_jobs_than_workers_start_no_thread_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: never())
    done: list[int] = []
    work_off([7], [done.append] * 4, never)
    work_off([], [done.append] * 4, never)
    assert done == [7]


def test_without_more_threads_this_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    work_off(range(5), [done.append] * 3, never)
    assert done == list(range(5))


@pytest.mark.parametrize("who", ["this thread", "another"])
def test_the_first_exception_stops_the_others(who: str) -> None:
    here, stopped, others = threading.get_ident(), threading.Event(), set(threading.enumerate())
    begun: list[int] = []
    both = threading.Barrier(2, timeout=10)

    def work(job: int) -> None:
        begun.append(job)
        if job < 2:
            both.wait()
            if (threading.get_ident() == here) == (who == "this thread"):
                raise KeyError(job)
        assert stopped.wait(10)
        raise ValueError("was stopped")

    with pytest.raises(KeyError):
        work_off(range(10), [work, work], stopped.set)
    assert sorted(begun) == [0, 1]
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name == "llama_cffi"]


def test_a_signal_while_waiting_for_the_others_stops_them() -> None:
    class Stopped(Exception):
        pass

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Stopped

    here, stopped = threading.get_ident(), threading.Event()
    both = threading.Barrier(2, timeout=10)

    def work(job: int) -> None:
        both.wait()
        if threading.get_ident() != here:
            assert stopped.wait(10)

    old = signal.signal(signal.SIGALRM, raise_it)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.monotonic()
        with pytest.raises(Stopped):
            work_off([0, 1], [work, work], stopped.set)
        assert time.monotonic() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert stopped.is_set()


def test_a_call_with_a_stack_returns_and_raises() -> None:
    before = threading.stack_size()
    assert with_stack(200 << 20, lambda: threading.get_ident()) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        with_stack(1 << 20, lambda: 1 // 0)
    with pytest.raises(MemoryError, match="no thread with a stack of"):
        with_stack(1 << 60, never)
    assert threading.stack_size() == before


def test_an_interrupt_waits_for_the_call_with_a_stack() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ended: list[int] = []

    def call() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        time.sleep(0.1)
        ended.append(1)

    others = set(threading.enumerate())
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            with_stack(1 << 20, call)
    finally:
        signal.signal(signal.SIGUSR1, before)
    # Either the call had not begun, or it has ended.
    assert ended in ([], [1])
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name == "llama_cffi"]


# -- a pool


def test_a_pool_returns_and_raises_what_calls_do() -> None:
    pool = ThreadPool(2)
    meeting = threading.Barrier(2, timeout=10)
    both = [pool.submit(meeting.wait) for _ in range(2)]
    assert sorted(one.result(10) for one in both) == [0, 1]
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(10)
    go = threading.Event()
    busy = [pool.submit(lambda: go.wait(10)) for _ in range(2)]
    never_begun = pool.submit(never)
    assert never_begun.cancel()
    last = pool.submit(lambda: "done")
    pool.shutdown()
    pool.shutdown()
    go.set()
    assert last.result(10) == "done"
    assert all(one.result(10) for one in busy)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(never)


def test_the_threads_of_a_pool_end_with_it() -> None:
    before = set(threading.enumerate())
    pool = ThreadPool(2)
    assert [pool.submit(lambda n=n: n).result(10) for n in range(4)] == list(range(4))  # type: ignore[misc]
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    del pool
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_that_another_thread_held_is_open_in_a_forked_child() -> None:
    program = """
    import os, signal, threading, warnings
    from llama_cffi._util import worker
    from llama_cffi._util.once import once

    made, inside, leave = once(lambda: inside.set() or leave.wait()), threading.Event(), threading.Event()
    threading.Thread(target=made).start()
    inside.wait()
    held = threading.Event()

    def hold():
        with worker._stack_size_lock:
            held.set()
            leave.wait()

    threading.Thread(target=hold).start()
    held.wait()
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        inside, leave = threading.Event(), threading.Event()
        leave.set()
        assert made() is True
        os._exit(worker.with_stack(1 << 20, lambda: 7))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    leave.set()
    """
    assert run_child(program) == "7\n"
