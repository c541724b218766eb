"""Room for another model: how many there may be, and how much memory they may take together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from llama_cffi.server.router.managed import Failure, ManagedModel


@dataclass(frozen=True)
class Limits:
    """What all models share."""

    max_models: int
    """Models in memory at once; 0 is no limit."""
    memory: int | None
    """Bytes of all models together."""
    wait_seconds: float
    """How long a model waits for room that others are using."""


class Room:
    """Grants models their place in memory, one after the other.

    Idle models make room, those that were used longest ago first; a model that a request needs never does. ``models``
    returns all of them, ``evict`` unloads one, and ``change`` waits until one changes, or for this many seconds.
    """

    def __init__(
        self,
        limits: Limits,
        models: Callable[[], Collection[ManagedModel]],
        evict: Callable[[ManagedModel], Awaitable[None]],
        change: Callable[[float], Awaitable[None]],
    ) -> None:
        self._limits, self._models, self._evict, self._change = limits, models, evict, change
        self._turn = asyncio.Lock()

    async def grant(self, model: ManagedModel, needed: int) -> Failure | None:
        """Count ``needed`` bytes for a model as soon as there is room, or return why there is none."""
        limit = self._limits.memory
        if limit is not None and needed > limit:
            return Failure(
                f"the model {model.id!r} needs {_mib(needed)}, and --memory-limit is {_mib(limit)}", "memory_limit"
            )
        async with self._turn:
            until = time.monotonic() + self._limits.wait_seconds
            while True:
                if model.idle and not model.wanted:
                    message = f"no request waits for the model {model.id!r} any more"
                    return Failure(message, "model_not_loaded", abandoned=True)
                others = [one for one in self._models() if one is not model and one.granted]
                if self._fits(others, needed):
                    model.memory, model.granted = needed, True
                    return None
                idle = sorted((one for one in others if _can_go(one)), key=lambda one: one.last_used)
                busy = [one for one in others if not _can_go(one)]
                if idle and self._fits(busy, needed):
                    await self._evict(idle[0])
                elif (left := until - time.monotonic()) > 0:
                    await self._change(left)
                else:
                    return self._full(model, busy, needed)

    def _fits(self, others: Collection[ManagedModel], needed: int) -> bool:
        limits = self._limits
        if limits.max_models and len(others) >= limits.max_models:
            return False
        return limits.memory is None or sum(one.memory for one in others) + needed <= limits.memory

    def _full(self, model: ManagedModel, busy: Collection[ManagedModel], needed: int) -> Failure:
        limits = self._limits
        names = ", ".join(sorted(one.id for one in busy))
        what = f"--models-max is {limits.max_models}"
        if limits.memory is not None and (not limits.max_models or len(busy) < limits.max_models):
            used = _mib(sum(one.memory for one in busy))
            what = f"it needs {_mib(needed)}, --memory-limit is {_mib(limits.memory)}, and others in use have {used}"
        return Failure(f"there is no room for the model {model.id!r}: {what}; in use: {names}", "models_busy")


def _can_go(model: ManagedModel) -> bool:
    return model.status == "loaded" and model.idle


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


__all__ = ["Limits", "Room"]
