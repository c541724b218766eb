"""Options about the CPUs that threads run on, with the names of llama.cpp's own tools."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_cffi.cli.options import option

if TYPE_CHECKING:
    from llama_cffi.core.thread_options import Priority

_PRIORITIES: dict[int, Priority] = {-1: "low", 0: "normal", 1: "medium", 2: "high", 3: "realtime"}
_AS_SINGLE = "as for single tokens"

CpuMask = Annotated[
    str | None,
    option("-C", "--cpu-mask", metavar="M", help="The CPUs that threads run on, as a hexadecimal mask."),
]
CpuRange = Annotated[
    str | None,
    option("-Cr", "--cpu-range", metavar="LO-HI", help="The CPUs that threads run on, beside those of --cpu-mask."),
]
CpuStrict = Annotated[
    int,
    option(
        "--cpu-strict", metavar="<0|1>", min=0, max=1, help="Give each thread one of these CPUs for itself: 0 or 1."
    ),
]
Prio = Annotated[
    int,
    option(
        "--prio", metavar="N", min=-1, max=3,
        help="Priority of threads: -1 low, 0 normal; 1 medium, 2 high and 3 realtime come before all else.",
    ),
]  # fmt: skip
Poll = Annotated[
    int,
    option(
        "--poll", metavar="N", min=0, max=100,
        help="How long threads wait busily for work before they sleep: 0 (not at all) to 100.",
    ),
]  # fmt: skip
CpuMaskBatch = Annotated[
    str | None,
    option("-Cb", "--cpu-mask-batch", metavar="M", show_default=_AS_SINGLE, help="--cpu-mask for prompts."),
]
CpuRangeBatch = Annotated[
    str | None,
    option("-Crb", "--cpu-range-batch", metavar="LO-HI", show_default=_AS_SINGLE, help="--cpu-range for prompts."),
]
CpuStrictBatch = Annotated[
    int | None,
    option(
        "--cpu-strict-batch", metavar="<0|1>", min=0, max=1, show_default=_AS_SINGLE,
        help="--cpu-strict for prompts.",
    ),
]  # fmt: skip
PrioBatch = Annotated[
    int | None,
    option("--prio-batch", metavar="N", min=-1, max=3, show_default=_AS_SINGLE, help="--prio for prompts."),
]
PollBatch = Annotated[
    int | None,
    option("--poll-batch", metavar="N", min=0, max=100, show_default=_AS_SINGLE, help="--poll for prompts."),
]


@dataclass(frozen=True, kw_only=True)
class Cpus:
    """The options of the threads of a context that a command takes."""

    cpu_mask: CpuMask = None
    cpu_range: CpuRange = None
    cpu_strict: CpuStrict = 0
    prio: Prio = 0
    poll: Poll = 50
    cpu_mask_batch: CpuMaskBatch = None
    cpu_range_batch: CpuRangeBatch = None
    cpu_strict_batch: CpuStrictBatch = None
    prio_batch: PrioBatch = None
    poll_batch: PollBatch = None

    def threads(self) -> dict[str, Any]:
        """Return these options as those of a context; wrong ones raise ``typer.BadParameter``."""
        strict, prio = self.cpu_strict_batch, self.prio_batch
        return {
            "cpu_mask": _cpus(self.cpu_mask, self.cpu_range, ""),
            "cpu_strict": bool(self.cpu_strict),
            "priority": _PRIORITIES[self.prio],
            "poll": self.poll,
            "cpu_mask_batch": _cpus(self.cpu_mask_batch, self.cpu_range_batch, "-batch"),
            "cpu_strict_batch": None if strict is None else bool(strict),
            "priority_batch": None if prio is None else _PRIORITIES[prio],
            "poll_batch": self.poll_batch,
        }


def _cpus(mask: str | None, cpu_range: str | None, suffix: str) -> tuple[int, ...] | None:
    from llama_cffi.core.thread_options import check_mask

    found: set[int] = set()
    if mask is not None:
        digits = mask.lower().removeprefix("0x")
        try:
            found.update(check_mask("mask", f"0x{digits}"))
        except ValueError:
            raise typer.BadParameter(
                f"{mask!r} is not a hexadecimal mask of CPUs 0 to 511, such as ff", param_hint=f"--cpu-mask{suffix}"
            ) from None
    if cpu_range is not None:
        first, dash, last = cpu_range.partition("-")
        try:
            if not dash:
                raise ValueError
            # As in llama.cpp: an end that is left out is the first or the last CPU.
            found.update(check_mask("range", f"{first or 0}-{last or (os.cpu_count() or 1) - 1}"))
        except ValueError:
            raise typer.BadParameter(
                f"{cpu_range!r} is not LO-HI with CPUs from 0 to 511, such as 0-3", param_hint=f"--cpu-range{suffix}"
            ) from None
    return tuple(sorted(found)) or None


__all__ = ["Cpus"]
