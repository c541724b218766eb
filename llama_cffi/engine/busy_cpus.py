"""Fewer threads for a while, when other work keeps some of the CPUs busy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llama_cffi._util.cpu_use import CpuUse, cpu_use

if TYPE_CHECKING:
    from llama_cffi.engine.engine_options import EngineOptions
    from llama_cffi.engine.runner import Runner

WINDOW_SECONDS = 0.06
"""How long CPU time is added up before it is looked at."""
PATIENCE_SECONDS = 0.18
"""How long CPUs must be lacking until there are fewer threads: a short job of another process is over by then."""
LACKING = 0.4
"""CPUs that must be lacking on average. Another busy process takes 0.5 to 0.7. When 0.4 of two CPUs are lacking, one
thread is about as fast as two."""
_NOTICED = 0.2
"""CPUs that must be lacking in each window."""
LEAST_WAIT, MOST_WAIT = 0.25, 2.0
"""How long there are fewer threads until all of them are tried again: first, and after trials in vain."""
TRIAL_SECONDS = 0.06
"""How long they are tried: at least a step, after a first one in which they wake up."""
_TRYING = 0.03
"""The part of the time that trials in vain may take at last."""
_LEAST_STEPPING = 0.9
"""The part of a window that must be steps, for its CPU time to say something."""


class BusyCpus:
    """Finds out that the threads of a computation lack CPUs, and computes with fewer threads meanwhile.

    ggml's threads wait for each other busily after every operation. When another process has one of their CPUs, all
    wait for the thread that has none, and the waiting threads keep that one from the other CPUs. With as many threads
    as there are free CPUs a step takes its share and no more.

    That threads lack CPUs shows in the CPU time of the process: less than one second per second and thread, although
    they compute or wait busily all the time, and the system preempts them. While nothing else runs there is nothing to
    see, so nothing is tried, and nothing lost. After a while all threads are tried again, for a few steps.

    ``count()`` are the threads to compute with when nothing else runs; ``apply(n)`` computes with ``n``, or with all of
    them for None, from the next step on. Times are those of :func:`time.perf_counter`.
    """

    __slots__ = (
        "_apply",
        "_began",
        "_count",
        "_lacked",
        "_lacked_for",
        "_measure",
        "_retry",
        "_stepped",
        "_trial",
        "_use",
        "_wait",
        "_waking",
        "n",
    )

    def __init__(
        self,
        count: Callable[[], int],
        apply: Callable[[int | None], object],
        measure: Callable[[], CpuUse | None] = cpu_use,
    ) -> None:
        self._count, self._apply, self._measure = count, apply, measure
        self._use: CpuUse | None = None
        self._began = self._stepped = self._lacked = self._lacked_for = self._retry = 0.0
        self._wait = LEAST_WAIT
        self._trial = self._waking = False
        self.n: int = count()
        """The threads that are computed with."""

    def look(self, now: float, stepped: float) -> float:
        """Look at the time since the last call, after a step; return when to look again.

        ``stepped`` are the seconds of all steps so far.
        """
        use, before = self._measure(), self._use
        elapsed, in_steps = now - self._began, stepped - self._stepped
        self._began, self._stepped, self._use = now, stepped, use
        n_threads = self._count()
        if use is None:
            return float("inf")  # the system does not tell
        if self._waking:
            self._waking = False
            return now + TRIAL_SECONDS
        if before is not None and n_threads > 1:
            self._judge(now, elapsed, in_steps, before, use)
        if self.n < n_threads and now >= self._retry and not self._trial:
            self._trial = self._waking = True
            self._set(n_threads, None)
            return now
        if n_threads <= 1 or (not self._trial and self.n > n_threads):
            self.n = n_threads  # the caller has set another number
        return now + WINDOW_SECONDS

    def _judge(self, now: float, elapsed: float, in_steps: float, before: CpuUse, use: CpuUse) -> None:
        # Where the time between steps was idle, no CPU was lacking in it.
        lacking = self.n * in_steps / elapsed - (use.seconds - before.seconds) / elapsed
        told = in_steps >= _LEAST_STEPPING * elapsed and use.faults == before.faults
        if not told or lacking <= _NOTICED or use.preempted == before.preempted:
            self._lacked = self._lacked_for = 0.0
        else:
            self._lacked += lacking * elapsed
            self._lacked_for += elapsed
        lacks = self._lacked > LACKING * self._lacked_for
        if self._trial:
            self._trial = False
            # A step of a large model takes longer than a trial is meant to.
            most = max(MOST_WAIT, elapsed / _TRYING)
            self._wait = min(2 * self._wait, most) if lacks else LEAST_WAIT
        elif self._lacked_for < PATIENCE_SECONDS:
            lacks = False
        if lacks and self.n > 1:
            self._retry = now + self._wait
            n = max(1, self.n - max(1, round(self._lacked / self._lacked_for)))
            self._set(n, n)

    def _set(self, n: int, limit: int | None) -> None:
        self._lacked = self._lacked_for = 0.0
        self.n = n
        self._apply(limit)


def watch(runner: Runner, options: EngineOptions) -> Callable[[float, float], float] | None:
    """Return what is to look after steps of an engine, None for an engine whose number of threads does not change.

    The order in which numbers are added depends on it for some operations, so it is fixed with ``reproducible``.
    """
    if options.reproducible:
        return None
    look = BusyCpus(lambda: runner.n_threads, runner.lower_threads).look
    # A decode that waits for its turn lacks no CPU.
    return lambda now, stepped: look(now, stepped - runner.seconds_waited())


__all__ = ["BusyCpus", "watch"]
