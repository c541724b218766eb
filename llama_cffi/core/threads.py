"""How many threads to compute with, and why."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from llama_cffi._util.scalars import is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.cpu_topology import CpuTopology, read_topology, usable_cpus

MAX_THREADS = 512
"""``GGML_MAX_N_THREADS``; ggml asserts above it."""

_ALWAYS_ALLOWED = 4
"""Threads that a caller may have on fewer CPUs."""


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """A number of threads, and in words what decided it."""

    n: int
    reason: str

    def __str__(self) -> str:
        return f"{self.n} ({self.reason})"


def default_thread_count() -> int:
    """Return the number of physical cores that this process may really use: affinity, SMT siblings, performance cores
    and the control group's CPU quota decide.

    ``os.cpu_count()`` counts what the machine has; a container with two of its 64 cores would be given 64 threads
    that wait for each other at every layer.
    """
    return choose_threads(read_topology()).n


def choose_threads(topology: CpuTopology, mask: Sequence[int] = ()) -> ThreadChoice:
    """Return the number of threads for these CPUs, or those among them in a mask, with what limited it.

    One thread for each physical core: hardware threads of one core share its arithmetic units. Only performance cores
    where the CPU has two kinds: threads wait for the slowest one after each operation. Not more than the control group
    grants: what exceeds it is halted for the rest of each period.
    """
    cpus, said = topology.cpus, []
    if mask:
        cpus = frozenset(mask)
        said.append(f"the CPU mask has {_count(len(cpus), 'CPU')} of {topology.n_online}")
    elif len(cpus) < topology.n_online:
        said.append(f"the affinity of the process has {_count(len(cpus), 'CPU')} of {topology.n_online}")
    else:
        said.append(_count(len(cpus), "CPU"))
    cores = {topology.cores.get(cpu, f"cpu{cpu}") for cpu in cpus}
    if len(cores) < len(cpus):
        said.append(f"SMT: they are {_count(len(cores), 'core')}")
    fast = cpus & topology.performance if topology.performance is not None else frozenset()
    n = len(cores)
    if fast:
        fast_cores = {topology.cores.get(cpu, f"cpu{cpu}") for cpu in fast}
        if len(fast_cores) < n:
            said.append(f"hybrid: {len(fast_cores)} of {n} are performance cores")
            n = len(fast_cores)
    if topology.quota is not None and topology.quota < n:
        said.append(f"the control group's quota is {topology.quota:g} CPUs")
        n = int(topology.quota)
    if n > MAX_THREADS:
        said.append(f"ggml takes at most {MAX_THREADS} threads")
    return ThreadChoice(max(1, min(n, MAX_THREADS)), "; ".join(said))


def thread_choice(
    name: str,
    value: int | None,
    default: ThreadChoice | None = None,
    *,
    mask: Sequence[int] = (),
) -> ThreadChoice:
    """Return the threads that a context computes with when it is asked for ``value``; None is ``default``, or what
    :func:`choose_threads` says.

    ggml's threads wait for each other busily, several times in each layer: with many more of them than CPUs a token
    takes minutes. What is above the CPUs that the process, or the mask, may use is lowered to their number, or to 4
    when they are fewer, with a ``RuntimeWarning``. Raises ``ValueError`` outside of 1 to :data:`MAX_THREADS`.
    """
    if value is None:
        return default if default is not None else choose_threads(read_topology(), mask)
    if not is_int(value, 1, MAX_THREADS):
        raise ValueError(f"{name} must be 1 to {MAX_THREADS}, got {shown(value)}")
    count = int(value)
    n_cpus = len(mask) or usable_cpus()
    limit = max(n_cpus, _ALWAYS_ALLOWED)
    if count > limit:
        warnings.warn(
            f"{name}={count} is more than the {limit} threads that are useful on the CPUs of this process; "
            f"computing with {limit}",
            RuntimeWarning,
            stacklevel=5,
        )
        return ThreadChoice(limit, f"{name}={count} was given, which is too many for {_count(n_cpus, 'CPU')}")
    return ThreadChoice(count, f"{name}={count} was given")


def thread_count(name: str, value: int | None, default: int | None = None) -> int:
    """Return the number of :func:`thread_choice`."""
    fallback = None if default is None else ThreadChoice(default, "")
    return thread_choice(name, value, fallback).n


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


__all__ = ["MAX_THREADS", "ThreadChoice", "choose_threads", "default_thread_count", "thread_choice", "thread_count"]
