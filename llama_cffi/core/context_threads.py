"""The compute threads of a context: how many and why, their pools, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi._native import lib
from llama_cffi._native.turn import Turn
from llama_cffi.core.cpu_topology import read_topology, usable_cpus
from llama_cffi.core.numa import numa_cpus, numa_places_threads
from llama_cffi.core.thread_options import ThreadOptions, own_affinity
from llama_cffi.core.thread_pool import PoolGroup, ThreadPool, has_pools, open_pool, own_group, shared_group, turn_of
from llama_cffi.core.threads import ThreadChoice, choose_threads, thread_choice
from llama_cffi.errors import UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.context_options import ContextOptions
    from llama_cffi.core.model import Model

Placed = Callable[[], AbstractContextManager[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadUse:
    """The threads that a context computes with, at one moment.

    ``n`` threads compute single tokens, ``n_batch`` several tokens; each has its ``reason``. ``lowered`` tells why
    these are fewer than the context has (``n_threads``, ``n_threads_batch``) for a while, and is None while they are
    not. ``shared``: other contexts of the process compute with the same threads, and take turns.
    """

    n: int
    n_batch: int
    reason: str
    reason_batch: str
    lowered: str | None
    shared: bool

    def __str__(self) -> str:
        reason = self.reason if self.lowered is None else f"{self.reason}; {self.lowered}"
        if (self.n_batch, self.reason_batch) == (self.n, self.reason):
            return f"{self.n} ({reason})"
        return f"{self.n} ({reason}), {self.n_batch} for several tokens ({self.reason_batch})"


class ContextThreads:
    """The threads of one context. It never refers to the Context: see Handle.

    Contexts that would use more than half of the CPUs share their pools and a turn: two such pools at once would wait
    busily for each other. Smaller ones, those of models with weights on a GPU, and ``own`` ones have a turn of their
    own, in which they only meet encodings. ``lender`` is what another context has, whose pools and turn are used.
    """

    __slots__ = (
        "_given",
        "_group",
        "_lowered",
        "_options",
        "_options_batch",
        "_pools",
        "choice",
        "choice_batch",
        "limit",
        "turn",
    )

    def __init__(
        self, model: Model, options: ContextOptions, lender: ContextThreads | None = None, *, own: bool = False
    ) -> None:
        self._options, self._options_batch = options.threads, options.threads_batch
        self._pools: dict[tuple[int, ThreadOptions], ThreadPool] = {}
        for one in {self._options, self._options_batch}:
            self._check(one)
        self.limit: int | None = None
        self._lowered: str | None = None
        self._choose(options.n_threads, options.n_threads_batch)
        self._group: PoolGroup = lender._group if lender is not None else self._new_group(model, own)
        self.turn: Turn = turn_of(self._group)

    def _new_group(self, model: Model, own: bool) -> PoolGroup:
        cpus = tuple(sorted({*self._options.cpus, *self._options_batch.cpus}))
        n_cpus = len(cpus) or usable_cpus()
        shares = not own and not model.placement.gpu_bytes and 2 * max(self.n) > n_cpus
        return shared_group(cpus) if shares else own_group(cpus)

    @staticmethod
    def _check(options: ThreadOptions) -> None:
        options.check()
        if options.cpus and numa_places_threads():
            raise UnsupportedError("cpu_mask: this process has a NUMA strategy, by which ggml places its threads")
        if options != ThreadOptions() and not has_pools():
            raise UnsupportedError(
                "cpu_mask, cpu_strict, priority and poll: the CPU backend of this libllama has no thread pools"
            )

    def _choose(self, n_threads: int | None, n_threads_batch: int | None) -> None:
        self._given = (n_threads, n_threads_batch)
        cpus, cpus_batch = self._options.cpus, self._options_batch.cpus
        if not cpus:
            cpus = cpus_batch = numa_cpus()
        self.choice: ThreadChoice = thread_choice("n_threads", n_threads, mask=cpus)
        default = self.choice if cpus == cpus_batch else choose_threads(read_topology(), cpus_batch)
        self.choice_batch: ThreadChoice = thread_choice("n_threads_batch", n_threads_batch, default, mask=cpus_batch)
        self._options.check_number(self.choice.n)
        self._options_batch.check_number(self.choice_batch.n)

    @property
    def asked(self) -> tuple[int | None, int | None]:
        """The numbers that were given, as far as they are computed with; None for what was left to this package."""
        return (
            None if self._given[0] is None else self.choice.n,
            None if self._given[1] is None else self.choice_batch.n,
        )

    @property
    def n(self) -> tuple[int, int]:
        """The threads for single tokens and for several."""
        return self.choice.n, self.choice_batch.n

    @property
    def use(self) -> ThreadUse:
        """What is computed with now."""
        limit = self.limit if self.limit is not None else max(self.n)
        return ThreadUse(
            n=min(self.choice.n, limit),
            n_batch=min(self.choice_batch.n, limit),
            reason=self.choice.reason,
            reason_batch=self.choice_batch.reason,
            lowered=self._lowered,
            shared=not self._group.owner,
        )

    def set(self, ptr: Any, n_threads: int, n_threads_batch: int | None) -> None:
        """Compute with these numbers of threads from now on."""
        self._choose(n_threads, n_threads_batch)
        self.attach(ptr)

    def lower(self, ptr: Any, limit: int | None, why: str | None) -> None:
        """Compute with at most this many threads until further notice, because of ``why``; None ends that."""
        self.limit, self._lowered = limit, why
        self.attach(ptr)

    def attach(self, ptr: Any) -> None:
        """Let a ``llama_context`` compute with the threads that it is to have now."""
        use = self.use
        if has_pools():
            # Pools no longer used stay (asleep) until the context goes: the CPU backend pauses the one it had before.
            pool, pool_batch = self._pool(use.n, self._options), self._pool(use.n_batch, self._options_batch)
            lib.llama_attach_threadpool(ptr, pool.handle.ptr, pool_batch.handle.ptr)
        lib.llama_set_n_threads(ptr, use.n, use.n_batch)

    def _pool(self, n_threads: int, options: ThreadOptions) -> ThreadPool:
        key = (n_threads, options)
        pool = self._pools.get(key)
        if pool is None:
            pool = open_pool(self._group, n_threads, options)
            pool.handle.attach(self, "a Context computes with it")
            self._pools[key] = pool
        return pool

    def placed(self, *, batch: bool) -> Placed | None:
        """Return what makes the calling thread run as one of the pool, while it computes; None where it does already.

        ggml would place it once, and for good.
        """
        options = self._options_batch if batch else self._options
        if options.is_placed:
            return lambda: options.applied(self.use.n_batch if batch else self.use.n)
        return own_affinity if numa_places_threads() else None

    def release(self) -> None:
        """Let go of the pools, of which those without another user end. The context must be freed."""
        while self._pools:
            _, pool = self._pools.popitem()
            pool.handle.detach(self)


def place(function: Callable[..., T], placed: Placed | None) -> Callable[..., T]:
    """Return a function that calls another one while this thread is placed; the other one if there is nothing to do."""
    if placed is None:
        return function

    def run(*args: Any) -> T:
        with placed():
            return function(*args)

    return run


__all__ = ["ContextThreads", "Placed", "ThreadUse", "place"]
