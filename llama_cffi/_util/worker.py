"""Threads: the only place that starts any."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi._util.fork import fork_safe

if TYPE_CHECKING:
    from concurrent.futures import Future

    _PoolJob = tuple[Future[Any], Callable[[], Any]]

Job = TypeVar("Job")
Result = TypeVar("Result")

_PAGE = 1 << 16
_stack_size_lock = fork_safe(threading.Lock())


def work_off(jobs: Iterable[Job], workers: Sequence[Callable[[Job], None]], stop: Callable[[], None]) -> None:
    """Give the jobs to the workers, each to the next free one, and return when all are done.

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


def start_daemon(call: Callable[[], object]) -> threading.Thread:
    """Run a call on a thread that does not keep the process alive. Raises :class:`RuntimeError` where none starts."""
    thread = threading.Thread(target=call, name="llama_cffi", daemon=True)
    thread.start()
    return thread


class ThreadPool:
    """Runs calls on up to ``n_threads`` threads, which start with the first calls.

    Unlike those of :class:`concurrent.futures.ThreadPoolExecutor` they neither keep the process alive nor refuse work
    from the end of the main thread on, when others may still be running.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_left = n_threads
        self._jobs: SimpleQueue[_PoolJob | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ends = weakref.finalize(self, _end_pool, self._jobs, n_threads)
        self._ends.atexit = False

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Return the future of a call; raises :class:`RuntimeError` after :meth:`shutdown`."""
        from concurrent.futures import Future

        future: Future[Result] = Future()
        with self._lock:
            if not self._ends.alive:
                raise RuntimeError("the pool is shut down")
            self._jobs.put((future, call))
            if self._n_left:
                start_daemon(partial(_work_for_pool, self._jobs))
                self._n_left -= 1
        return future

    def shutdown(self) -> None:
        """Let the threads end after what was submitted. Idempotent."""
        with self._lock:
            self._ends()


def _end_pool(jobs: SimpleQueue[_PoolJob | None], n_threads: int) -> None:
    for _ in range(n_threads):
        jobs.put(None)


def _work_for_pool(jobs: SimpleQueue[_PoolJob | None]) -> None:
    while (job := jobs.get()) is not None:
        future, call = job
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
                del error
            else:
                future.set_result(result)
                del result
        del job, future, call  # what they keep alive does not wait for the next one


def with_stack(size: int, call: Callable[[], Result]) -> Result:
    """Return what a call returns that runs on a thread with ``size`` bytes of stack; raise what it raises.

    The memory is taken as the call comes to need it. Raises :class:`MemoryError` where the system gives no such stack.
    A signal handler that raises meanwhile is heard when the call has come to its end.
    """
    results, errors, interrupts = list[Result](), list[BaseException](), list[BaseException]()
    claim, done = deque([call]), threading.Event()

    def work() -> None:
        try:
            mine = claim.popleft()
        except IndexError:  # the caller was interrupted first
            return
        try:
            results.append(mine())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="llama_cffi")
    try:
        # The size holds for every thread that the process starts in these microseconds: larger than it needs, at most.
        with _stack_size_lock:
            before = threading.stack_size(-(-size // _PAGE) * _PAGE)
            try:
                thread.start()
            finally:
                threading.stack_size(before)
    except (RuntimeError, ValueError) as error:
        raise MemoryError(f"no thread with a stack of {size} bytes can be started: {error}") from None
    except BaseException as error:
        # Whether the thread has begun is not known here. The call runs if the thread has taken it.
        try:
            claim.popleft()
        except IndexError:
            interrupts.append(error)
        else:
            raise
    while not done.is_set() or thread.is_alive():
        try:
            done.wait()
            thread.join()
        except BaseException as error:
            interrupts.append(error)
    for raised in (*interrupts, *errors):
        raise raised
    return results[0]


__all__ = ["ThreadPool", "start_daemon", "with_stack", "work_off"]
