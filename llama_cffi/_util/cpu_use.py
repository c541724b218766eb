"""What this process has used of the CPUs."""

from __future__ import annotations

from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class CpuUse(NamedTuple):
    """What this process has used since it began."""

    seconds: float
    """CPU time of all threads."""
    preempted: int
    """How often the system took a CPU from a thread."""
    faults: int
    """How often a thread waited for a page of a file."""


def cpu_use() -> CpuUse | None:
    """Return what this process has used of the CPUs; None where the system does not tell. Takes about 3 us."""
    if resource is None:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF)
    return CpuUse(used.ru_utime + used.ru_stime, used.ru_nivcsw, used.ru_majflt)


__all__ = ["CpuUse", "cpu_use"]
