"""How compute threads run: on which CPUs, with which priority, and how they wait."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from llama_cffi._util.scalars import as_int, check_int
from llama_cffi._util.shown import shown
from llama_cffi.core.cpu_topology import cpu_list, usable_cpus
from llama_cffi.core.options import choice
from llama_cffi.core.threads import MAX_THREADS
from llama_cffi.errors import UnsupportedError

Priority = Literal["low", "normal", "medium", "high", "realtime"]
CpuMask = str | Sequence[int]

PRIORITIES: dict[str, str] = {
    "low": "GGML_SCHED_PRIO_LOW",
    "normal": "GGML_SCHED_PRIO_NORMAL",
    "medium": "GGML_SCHED_PRIO_MEDIUM",
    "high": "GGML_SCHED_PRIO_HIGH",
    "realtime": "GGML_SCHED_PRIO_REALTIME",
}
_FIFO_PRIORITIES = {"medium": 40, "high": 80, "realtime": 90}
"""What ggml asks Linux for; "low" is the policy SCHED_BATCH."""

DEFAULT_POLL = 50
"""ggml's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadOptions:
    """How the threads of a pool run. ``cpus`` is empty for all CPUs of the process."""

    cpus: tuple[int, ...] = ()
    strict: bool = False
    priority: Priority = "normal"
    poll: int = DEFAULT_POLL

    @property
    def is_placed(self) -> bool:
        """Whether a thread that computes with the pool runs otherwise than usual."""
        return bool(self.cpus) or self.priority != "normal"

    def check(self) -> None:
        """Raise :class:`UnsupportedError` when the system does not let this thread run so."""
        if not self.is_placed:
            return
        if not (hasattr(os, "sched_setaffinity") and hasattr(os, "sched_setscheduler")):
            name = "cpu_mask" if self.cpus else f"priority={self.priority!r}"
            raise UnsupportedError(f"{name}: {sys.platform} does not let a thread be placed, and placed back")
        with _as_before():
            try:
                _place(self.cpus, self.priority)
            except PermissionError:
                raise UnsupportedError(
                    f"priority={self.priority!r}: the system does not allow real-time scheduling here: it takes "
                    "CAP_SYS_NICE, or a limit of real-time priorities (RLIMIT_RTPRIO, ulimit -r) of at least "
                    f"{_FIFO_PRIORITIES.get(self.priority, 0)}"
                ) from None
            except OSError:
                pass  # none of the CPUs is there
            missing = sorted(set(self.cpus) - os.sched_getaffinity(0))
        if missing:
            raise UnsupportedError(
                f"cpu_mask: the system has no CPU {', '.join(map(str, missing))} for this process; "
                f"it may use {ranges(os.sched_getaffinity(0))}"
            )

    def check_number(self, n_threads: int) -> None:
        """Raise :class:`UnsupportedError` for so many real-time threads that they leave no CPU to anything else.

        They wait for each other busily, and nothing takes a CPU from them: one that has to share a CPU with another
        waits for ever.
        """
        n_cpus = len(self.cpus) or usable_cpus()
        if self.priority in _FIFO_PRIORITIES and 1 < n_threads >= n_cpus:
            raise UnsupportedError(
                f"priority={self.priority!r}: {n_threads} real-time threads would leave none of {n_cpus} CPUs to "
                f"anything else; give n_threads={max(1, n_cpus - 1)} or fewer, also as n_threads_batch"
            )

    @contextmanager
    def applied(self, n_threads: int) -> Iterator[None]:
        """Let this thread run as ggml lets the one that computes with ``n_threads``, and afterwards as before."""
        cpus = self.cpus
        if self.strict and cpus:
            # ggml gives the first CPUs to the threads that it starts, and the next one to the caller's.
            cpus = (cpus[(n_threads - 1) % len(cpus)],)
        with _as_before():
            _place(cpus, self.priority)
            yield


def _place(cpus: Sequence[int], priority: Priority) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)
    if priority == "low":
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    elif priority != "normal":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITIES[priority]))


@contextmanager
def _as_before() -> Iterator[None]:
    """Restore the CPUs and the scheduling of this thread at the end."""
    cpus, policy, parameters = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


@contextmanager
def own_affinity() -> Iterator[None]:
    """Restore the CPUs of this thread at the end: with a NUMA strategy ggml leaves it with all of the machine."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cpus = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def check_mask(name: str, value: Any) -> tuple[int, ...]:
    """Return the CPUs of a mask, ascending: their numbers, a range such as ``"0-3,8"``, or a mask such as ``"0xff"``.

    Raises TypeError and ``ValueError`` for anything else, and for no CPU at all.
    """
    if isinstance(value, str):
        try:
            cpus = _from_text(value)
        except ValueError:
            raise ValueError(
                f'{name} must be ranges of CPUs such as "0-3,8", a hexadecimal mask such as "0xff", or numbers of '
                f"CPUs, got {shown(value)}"
            ) from None
    elif (
        isinstance(value, Iterable)
        and not isinstance(value, (bytes, bytearray))
        and getattr(value, "shape", None) != ()
    ):
        numbers = [as_int(one) for one in value]
        if None in numbers:
            raise ValueError(f"{name} must have the numbers of CPUs, got {shown(value)}")
        cpus = frozenset(cast("list[int]", numbers))
    else:
        raise TypeError(f"{name} must be a text or numbers of CPUs, not {type(value).__name__}")
    if not cpus:
        raise ValueError(f"{name} has no CPU, got {shown(value)}")
    if min(cpus) < 0 or max(cpus) >= MAX_THREADS:
        raise ValueError(f"{name} must have CPUs from 0 to {MAX_THREADS - 1}, got {shown(value)}")
    return tuple(sorted(cpus))


def _from_text(text: str) -> frozenset[int]:
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text.strip()):
        mask = int(text, 16)
        return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)
    if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", text.strip()):
        raise ValueError
    return cpu_list(text)


def ranges(cpus: Iterable[int]) -> str:
    """Return CPUs as the kernel lists them: ``0-3,8``."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def check_priority(name: str, value: Any) -> Priority:
    """Return a priority; ``ValueError`` for another word."""
    choice(name, value, PRIORITIES)
    return cast(Priority, value)


def check_poll(name: str, value: Any) -> int:
    """Return a level of polling; ``ValueError`` outside of 0 to 100."""
    return check_int(name, value, 0, 100)


__all__ = [
    "DEFAULT_POLL",
    "PRIORITIES",
    "CpuMask",
    "Priority",
    "ThreadOptions",
    "check_mask",
    "check_poll",
    "check_priority",
    "own_affinity",
    "ranges",
]
