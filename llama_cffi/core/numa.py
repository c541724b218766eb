"""The NUMA strategy of this process: ggml takes one, once."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Literal

from llama_cffi._native import lib
from llama_cffi._util.fork import fork_safe
from llama_cffi.core.cpu_topology import affinity, numa_nodes
from llama_cffi.core.options import constant
from llama_cffi.errors import UnsupportedError

NumaStrategy = Literal["distribute", "isolate", "numactl"]

NUMA_STRATEGIES: dict[str, str] = {
    "distribute": "GGML_NUMA_STRATEGY_DISTRIBUTE",
    "isolate": "GGML_NUMA_STRATEGY_ISOLATE",
    "numactl": "GGML_NUMA_STRATEGY_NUMACTL",
}


class _Numa:
    """What was chosen: with "isolate" also the CPUs of the node that the process was on."""

    strategy: NumaStrategy | None = None
    cpus: frozenset[int] = frozenset()


_numa = _Numa()
_lock = fork_safe(threading.RLock())


def use_numa(strategy: NumaStrategy | None, root: str = "/") -> None:
    """Let ggml place threads and weights by a strategy, from now on and in the whole process; None changes nothing.

    On a machine with one NUMA node it has no effect. Raises ``ValueError`` for another word, and
    :class:`UnsupportedError` away from Linux, and when the process has another strategy already. Wraps
    ``llama_numa_init``.
    """
    if strategy is None:
        return
    native = constant("numa", strategy, NUMA_STRATEGIES)
    if not sys.platform.startswith("linux"):
        raise UnsupportedError(f"numa={strategy!r}: ggml knows the NUMA nodes of Linux only")
    with _lock:
        if _numa.strategy == strategy:
            return
        if _numa.strategy is not None:
            raise UnsupportedError(
                f"numa={strategy!r}: this process computes with numa={_numa.strategy!r}, and ggml takes one strategy "
                "for a process"
            )
        nodes = numa_nodes(root)
        if len(nodes) > 1:
            home = _current_cpu(root)
            _numa.cpus = next((cpus for cpus in nodes.values() if home in cpus), frozenset())
            lib.llama_numa_init(native)
        _numa.strategy = strategy


def numa_places_threads() -> bool:
    """Whether ggml places the threads that compute, and leaves the caller's with all CPUs of the machine."""
    return bool(_numa.cpus)


def numa_cpus() -> tuple[int, ...]:
    """Return the CPUs that the strategy leaves for threads; none when it leaves all of the process."""
    if _numa.strategy != "isolate" or not _numa.cpus:
        return ()
    return tuple(sorted(_numa.cpus & affinity()))


def _current_cpu(root: str) -> int:
    """The CPU that this thread is on, or one that it may be on."""
    try:
        # The command may have spaces and parentheses; the processor is the 37th field behind it.
        fields = (Path(root) / "proc/thread-self/stat").read_text().rpartition(")")[2].split()
        return int(fields[36])
    except (OSError, ValueError, IndexError):
        return min(affinity(), default=0)


__all__ = ["NUMA_STRATEGIES", "NumaStrategy", "numa_cpus", "numa_places_threads", "use_numa"]
