"""The number of compute threads, and their pool."""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from llama_cffi._native import atomic, extras, ffi, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._util.scalars import is_int
from llama_cffi._util.shown import shown
from llama_cffi.errors import ContextError

MAX_THREADS = 512
"""``GGML_MAX_N_THREADS``; ggml asserts above it."""


def default_thread_count() -> int:
    """Physical cores that this process may really use: affinity, SMT siblings and the cgroup's CPU quota.

    ``os.cpu_count()`` counts what the machine has; a container with two of its 64 cores would be given 64 threads
    that wait for each other at every layer.
    """
    allowed = _affinity()
    cores = len({_physical_core(cpu) for cpu in allowed}) if allowed else (os.cpu_count() or 1)
    quota = cgroup_cpu_limit()
    if quota is not None:
        cores = min(cores, max(1, int(quota)))
    return max(1, min(cores, MAX_THREADS))


def thread_count(name: str, value: int | None, default: int | None = None) -> int:
    """Return the threads that a context computes with when it is asked for ``value``, None being ``default`` or as many
    as :func:`default_thread_count` says.

    ggml's threads wait for each other busily, several times in each layer: with many more of them than CPUs a token
    takes minutes. What is above the CPUs that the process may use is lowered to their number, or to 4 when they are
    fewer, with a ``RuntimeWarning``. Raises ``ValueError`` outside of 1 to :data:`MAX_THREADS`.
    """
    if value is None:
        return default if default is not None else default_thread_count()
    if not is_int(value, 1, MAX_THREADS):
        raise ValueError(f"{name} must be 1 to {MAX_THREADS}, got {shown(value)}")
    count = int(value)
    limit = max(len(_affinity()) or os.cpu_count() or 1, 4)
    if count > limit:
        warnings.warn(
            f"{name}={count} is more than the {limit} threads that are useful on the CPUs of this process; "
            f"computing with {limit}",
            RuntimeWarning,
            stacklevel=5,
        )
        return limit
    return count


def _affinity() -> frozenset[int]:
    # Linux and some BSDs have it, macOS and Windows do not.
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset()


def _physical_core(cpu: int) -> tuple[str, ...]:
    """What two hyperthreads of one core have in common."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "die_id", "core_id"))
    except OSError:
        try:
            return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
        except OSError:
            return (str(cpu),)


def cgroup_cpu_limit(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> float | None:
    """CPUs that the control group grants (quota / period), None without a limit; versions 1 and 2."""
    try:
        lines = Path(membership).read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = Path(root) if not controllers else Path(root) / controllers
        group = base / path.lstrip("/")
        # A limit of any ancestor counts. Inside a container the path may be the host's: the root is then ours.
        for folder in (group, *group.parents):
            if base not in (folder, *folder.parents):
                break
            limit = _read_limit(folder, version1=bool(controllers))
            if limit is not None:
                limits.append(limit)
    return min(limits, default=None)


def _read_limit(folder: Path, *, version1: bool) -> float | None:
    try:
        if version1:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        else:
            quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


@lru_cache(maxsize=1)
def _pool_functions() -> tuple[Any, Any]:
    """``ggml_threadpool_new`` and ``_free``: in the CPU backend, which may be a plug-in."""
    device = lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU)
    if device == ffi.NULL:
        raise ContextError("libllama has no CPU backend")
    registry = lib.ggml_backend_dev_backend_reg(device)
    new = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_new")
    free = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_free")
    if new == ffi.NULL or free == ffi.NULL:
        raise ContextError("the CPU backend has no thread pools")
    return (
        ffi.cast("ggml_threadpool_t (*)(struct ggml_threadpool_params *)", new),
        ffi.cast("void (*)(ggml_threadpool_t)", free),
    )


def make_pool(n_threads: int, cell: Cell) -> None:
    """Make a ``ggml_threadpool_t`` in a cell, unless there is one, to be freed by :func:`free_pool`.

    Without one, llama.cpp starts and joins its threads for every decode step, which costs a small model several
    per cent of its speed.
    """
    if cell:
        return
    new, _ = _pool_functions()
    params = ffi.new("struct ggml_threadpool_params *")
    lib.ggml_threadpool_params_init(params, n_threads)
    atomic.keep(cell, new, params)
    if cell[0] == ffi.NULL:
        cell.clear()
        raise ContextError(f"could not start {n_threads} threads")


def pause_pool(cell: Cell) -> None:
    """Let the threads of a pool sleep until its next computation, where the library offers that.

    They wait busily for it otherwise, for 0.15 seconds. No computation may begin meanwhile.
    """
    pause = extras.exported("ggml_threadpool_pause")
    if cell and pause is not None:
        ffi.cast("void (*)(ggml_threadpool_t)", pause)(cell[0])


def free_pool(cell: Cell) -> None:
    """Stop and join the threads of a pool that no context computes with any more."""
    if cell:
        atomic.free(_pool_functions()[1], cell)
