"""ggml's thread pools, which the contexts of a process share, and their turns to compute."""

from __future__ import annotations

import os
import threading
import weakref
from functools import lru_cache, partial
from itertools import count
from typing import Any, NamedTuple, TypeVar

from llama_cffi._native import atomic, extras, ffi, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._native.handle import Handle
from llama_cffi._native.turn import Turn, forget_pool
from llama_cffi._util.fork import fork_safe
from llama_cffi.core.options import constant
from llama_cffi.core.thread_options import DEFAULT_POLL, PRIORITIES, ThreadOptions
from llama_cffi.errors import ContextError, UnsupportedError

K = TypeVar("K")
T = TypeVar("T")


class PoolGroup(NamedTuple):
    """The contexts that compute with the same pools, in turns: all with equal groups.

    ``owner`` is 0 for the group of all contexts that would use most of the CPUs, and a number for each smaller one.
    """

    pid: int
    cpus: tuple[int, ...]
    owner: int


def shared_group(cpus: tuple[int, ...]) -> PoolGroup:
    """Return the group of all contexts of this process that use most of these CPUs, or of all CPUs if empty."""
    return PoolGroup(os.getpid(), cpus, 0)


def own_group(cpus: tuple[int, ...]) -> PoolGroup:
    """Return a new group."""
    return PoolGroup(os.getpid(), cpus, next(_owners))


class ThreadPool:
    """A ``ggml_threadpool_t``: threads that sleep, or wait busily for a while, until a context computes with them.

    They compute in a turn, and sleep while an encoding has that, where the library can pause them. Freed with its last
    user. ``open_pool`` creates it.
    """

    __slots__ = ("__weakref__", "handle", "n_threads")

    def __init__(self, computes_in: Turn, n_threads: int, options: ThreadOptions) -> None:
        new, _ = pool_functions()
        params = ffi.new("struct ggml_threadpool_params *")
        lib.ggml_threadpool_params_init(params, n_threads)
        if options.cpus:
            for cpu in options.cpus:
                params.cpumask[cpu] = True
            params.strict_cpu = options.strict
        if options.priority != "normal":
            params.prio = constant("priority", options.priority, PRIORITIES)
        if options.poll != DEFAULT_POLL:
            params.poll = options.poll
        # Otherwise ggml would place this thread as well, and the threads would wait busily for the first computation.
        params.paused = True
        self.n_threads = n_threads
        self.handle = handle = Handle("ThreadPool", partial(_free, computes_in.native), (computes_in,))
        atomic.keep(handle.cell, new, params)
        if handle.cell[0] == ffi.NULL:
            handle.cell.clear()
            handle.release()
            raise ContextError(f"could not start {n_threads} threads")
        handle.open(handle.cell[0])
        pause = extras.exported("ggml_threadpool_pause")
        if pause is not None:
            computes_in.add(handle, pause)


class _Key(NamedTuple):
    group: PoolGroup
    n_threads: int
    options: ThreadOptions


_owners = count(1)
_lock = fork_safe(threading.RLock())
_pools: dict[_Key, weakref.ref[ThreadPool]] = {}
_turns: dict[PoolGroup, weakref.ref[Turn]] = {}


def open_pool(group: PoolGroup, n_threads: int, options: ThreadOptions) -> ThreadPool:
    """Return the pool of a group with this many threads that run so; it is created if there is none.

    Without a pool, llama.cpp starts and joins its threads for every decode step, which costs a small model several
    per cent of its speed.
    """
    key = _Key(group, n_threads, options)
    with _lock:
        known = _pools.get(key)
        pool = known() if known is not None else None
        if pool is None:
            pool = ThreadPool(turn_of(group), n_threads, options)
            _forget_dead(_pools)
            _pools[key] = weakref.ref(pool)
        return pool


def turn_of(group: PoolGroup) -> Turn:
    """Return the turn that the contexts of a group take."""
    with _lock:
        known = _turns.get(group)
        found = known() if known is not None else None
        if found is None:
            found = Turn()
            _forget_dead(_turns)
            _turns[group] = weakref.ref(found)
        return found


def _forget_dead(table: dict[K, weakref.ref[T]]) -> None:
    for key, reference in tuple(table.items()):
        if reference() is None:
            table.pop(key, None)


def has_pools() -> bool:
    """Whether the CPU backend has thread pools; otherwise llama.cpp starts threads for every computation."""
    try:
        pool_functions()
    except UnsupportedError:
        return False
    return True


@lru_cache(maxsize=1)
def pool_functions() -> tuple[Any, Any]:
    """Return ``ggml_threadpool_new`` and ``_free``: they are in the CPU backend, which may be a plug-in.

    Raises :class:`ContextError` without a CPU backend, and :class:`UnsupportedError` for one without pools.
    """
    registry = cpu_registry()
    new = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_new")
    free = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_free")
    if new == ffi.NULL or free == ffi.NULL:
        raise UnsupportedError("the CPU backend has no thread pools")
    return (
        ffi.cast("ggml_threadpool_t (*)(struct ggml_threadpool_params *)", new),
        ffi.cast("void (*)(ggml_threadpool_t)", free),
    )


def cpu_registry() -> Any:
    """Return the registry of the CPU backend; raises :class:`ContextError` when there is none."""
    device = lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU)
    if device == ffi.NULL:
        raise ContextError("libllama has no CPU backend")
    return lib.ggml_backend_dev_backend_reg(device)


def _free(computes_in: Any, cell: Cell) -> None:
    # Stops and joins the threads; no context computes with them any more.
    if cell:
        forget_pool(computes_in, cell[0])
        atomic.free(pool_functions()[1], cell)


__all__ = [
    "PoolGroup",
    "ThreadPool",
    "cpu_registry",
    "has_pools",
    "open_pool",
    "own_group",
    "pool_functions",
    "shared_group",
    "turn_of",
]
