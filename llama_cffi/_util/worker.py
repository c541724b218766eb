"""Threads: the only place that starts any."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Job = TypeVar("Job")


def work_off(jobs: Iterable[Job], workers: Sequence[Callable[[Job], None]], stop: Callable[[], None]) -> None:
    """Give the jobs to the workers, one after the other to whoever is free, and return when all are done.

    The first worker runs on this thread, each other one on a thread of its own that ends with this call; where the
    system starts no more threads, those that run do the work. When a worker raises, or a signal handler does on this
    thread, ``stop`` is called to cut the others short, no job begins any more, and the first exception is raised
    when all have come to rest.
    """
    queue, errors = deque(jobs), list[BaseException]()

    def failed(error: BaseException) -> None:
        errors.append(error)
        stop()

    def work(worker: Callable[[Job], None]) -> None:
        try:
            while queue and not errors:
                try:
                    job = queue.popleft()
                except IndexError:  # another one took it
                    return
                worker(job)
        except BaseException as error:
            failed(error)

    threads: list[threading.Thread] = []
    try:
        for worker in workers[1 : len(queue)]:
            thread = threading.Thread(target=work, args=(worker,), name="llama_cffi")
            try:
                thread.start()
            except RuntimeError:
                break
            threads.append(thread)
        work(workers[0])
    except BaseException as error:  # a signal handler, between two calls
        failed(error)
    while threads:
        try:
            threads[-1].join()
            threads.pop()
        except BaseException as error:
            failed(error)
    if errors:
        raise errors[0]


__all__ = ["work_off"]
