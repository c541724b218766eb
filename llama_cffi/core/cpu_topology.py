"""The CPUs that this process may compute on: affinity, cores, kinds of cores, and the control group's quota."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SMALL = 0.5
"""A core with less than this share of the capacity of the largest one is an efficiency core."""


@dataclass(frozen=True, kw_only=True)
class CpuTopology:
    """What decides how many threads are useful.

    ``cores`` has the physical core of each CPU that the process may use: CPUs with equal values are hardware threads of
    one core. ``performance`` are the CPUs of the faster kind of cores, None where all are of one kind. ``quota`` is the
    number of CPUs that the control group grants, None without a limit. ``n_online`` counts all CPUs of the machine.
    """

    n_online: int
    cores: Mapping[int, str]
    performance: frozenset[int] | None = None
    quota: float | None = None

    @property
    def cpus(self) -> frozenset[int]:
        """The CPUs that the process may use."""
        return frozenset(self.cores)


def read_topology(root: str = "/", allowed: frozenset[int] | None = None) -> CpuTopology:
    """Return the topology of this machine, for a process that may use the ``allowed`` CPUs, by default this one.

    ``root`` is where ``/proc`` and ``/sys`` are. Where the system does not tell which CPUs a process may use, as on
    macOS and Windows, all are taken to be usable, and each to be a core unless macOS tells the number of these.
    """
    n_online = os.cpu_count() or 1
    if allowed is None:
        allowed = affinity()
    if not allowed:
        return _without_affinity(n_online, cgroup_cpu_limit(*_cgroup_files(root)))
    cpus = Path(root) / "sys/devices/system/cpu"
    return CpuTopology(
        n_online=max(n_online, len(allowed)),
        cores={cpu: _physical_core(cpus / f"cpu{cpu}" / "topology", cpu) for cpu in sorted(allowed)},
        performance=_performance(Path(root), allowed),
        quota=cgroup_cpu_limit(*_cgroup_files(root)),
    )


def affinity() -> frozenset[int]:
    """Return the CPUs that this thread may use; none where the system does not tell."""
    # Linux and some BSDs have it, macOS and Windows do not.
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset()


def usable_cpus() -> int:
    """Return the number of CPUs that this thread may use."""
    return len(affinity()) or os.cpu_count() or 1


def cpu_list(text: str) -> frozenset[int]:
    """Return the CPUs of a list as the kernel writes it, such as ``0-3,8``; ``ValueError`` for another text."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            begin, dash, end = part.partition("-")
            first, last = int(begin), int(end if dash else begin)
            if last < first:
                raise ValueError(f"{part} ends before it begins")
            found.update(range(first, last + 1))
    return frozenset(found)


def cpu_ranges(cpus: Iterable[int]) -> str:
    """Return the list of CPUs that :func:`cpu_list` reads: ``0-3,8``."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _physical_core(topology: Path, cpu: int) -> str:
    """What two hardware threads of one core have in common."""
    for names in (("physical_package_id", "die_id", "core_id"), ("physical_package_id", "core_id")):
        try:
            return ".".join((topology / name).read_text().strip() for name in names)
        except OSError:
            continue
    return f"cpu{cpu}"


def _performance(root: Path, allowed: frozenset[int]) -> frozenset[int] | None:
    """The CPUs of performance cores, where a machine has two kinds and the process may use both."""
    devices = root / "sys/devices"
    fast = slow = frozenset[int]()
    try:
        # Intel's hybrid CPUs have a performance counter unit for each kind.
        fast = cpu_list((devices / "cpu_core/cpus").read_text()) & allowed
        slow = cpu_list((devices / "cpu_atom/cpus").read_text()) & allowed
    except (OSError, ValueError):
        capacity: dict[int, int] = {}
        for cpu in allowed:
            try:
                # ARM: relative to the largest CPU, which has 1024.
                capacity[cpu] = int((devices / f"system/cpu/cpu{cpu}/cpu_capacity").read_text())
            except (OSError, ValueError):
                return None
        least = _SMALL * max(capacity.values(), default=0)
        fast = frozenset(cpu for cpu, size in capacity.items() if size >= least)
        slow = allowed - fast
    return fast if fast and slow else None


def numa_nodes(root: str = "/") -> dict[int, frozenset[int]]:
    """Return the CPUs of each NUMA node that has some, by its number; empty where the system does not tell."""
    found: dict[int, frozenset[int]] = {}
    for folder in sorted(Path(root, "sys/devices/system/node").glob("node[0-9]*")):
        try:
            cpus = cpu_list((folder / "cpulist").read_text())
        except (OSError, ValueError):
            continue
        if cpus:
            found[int(folder.name.removeprefix("node"))] = cpus
    return found


def _without_affinity(n_online: int, quota: float | None, sysctl: Callable[[str], int] | None = None) -> CpuTopology:
    """The topology of a system that only counts."""
    sysctl = _sysctl if sysctl is None else sysctl
    n_cores = sysctl("hw.physicalcpu") or n_online
    n_fast = sysctl("hw.perflevel0.physicalcpu")
    cores = {cpu: f"cpu{cpu % n_cores}" for cpu in range(n_online)}
    performance = frozenset(range(n_fast)) if 0 < n_fast < n_cores else None
    return CpuTopology(n_online=n_online, cores=cores, performance=performance, quota=quota)


def _sysctl(name: str) -> int:
    """A number that macOS tells; 0 elsewhere, and for one that it does not know."""
    if sys.platform != "darwin":
        return 0
    value, size = ctypes.c_int32(0), ctypes.c_size_t(4)
    system = ctypes.CDLL(ctypes.util.find_library("c"))
    failed = system.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return 0 if failed else value.value


def _cgroup_files(root: str) -> tuple[str, str]:
    return os.path.join(root, "sys/fs/cgroup"), os.path.join(root, "proc/self/cgroup")


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


__all__ = [
    "CpuTopology",
    "affinity",
    "cgroup_cpu_limit",
    "cpu_list",
    "cpu_ranges",
    "numa_nodes",
    "read_topology",
    "usable_cpus",
]
