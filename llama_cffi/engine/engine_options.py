"""How an engine computes and how much it takes on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from llama_cffi._util.arguments import check_flag, optional_seconds
from llama_cffi._util.scalars import as_int, is_int
from llama_cffi._util.shown import shown
from llama_cffi.engine.telemetry import OnEvent

DriverName = Literal["inline", "thread"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """See :class:`Engine`."""

    driver: DriverName = "inline"
    """Whether the threads that wait for text compute, or one thread of the engine's own does."""
    max_waiting: int | None = None
    """Most requests that wait; by default there is no limit."""
    max_waiting_tokens: int | None = None
    """Most tokens of prompts that wait; by default there is no limit."""
    max_waiting_seconds: float | None = None
    """Seconds that a request may wait for its turn; by default there is no limit."""
    max_step_seconds: float | None = None
    """Seconds that a decode may last; by default :class:`PrefillBudget` decides."""
    reproducible: bool = False
    """Whether decodes are not measured, so that what is computed together depends on the requests alone."""
    host_bytes: int = 0
    """Most bytes of the host's memory for what had to leave the context's; 0 keeps nothing there."""
    on_event: OnEvent | None = None
    """Receives what happens to requests, on the thread that computes, and must not wait."""

    def __post_init__(self) -> None:
        if not isinstance(self.driver, str) or self.driver not in ("inline", "thread"):
            raise ValueError(f"driver must be 'inline' or 'thread', got {shown(self.driver)}")
        if self.on_event is not None and not callable(self.on_event):
            raise TypeError(f"on_event must be callable, not {type(self.on_event).__name__}")
        if not is_int(self.host_bytes, 0, sys.maxsize):
            raise ValueError(f"host_bytes must be a whole number of at least 0, got {shown(self.host_bytes)}")
        object.__setattr__(self, "host_bytes", as_int(self.host_bytes))
        for name in ("max_waiting", "max_waiting_tokens"):
            value = getattr(self, name)
            if value is not None and not is_int(value, 1, sys.maxsize):
                raise ValueError(f"{name} must be None or a whole number of at least 1, got {shown(value)}")
            object.__setattr__(self, name, as_int(value))
        for name in ("max_step_seconds", "max_waiting_seconds"):
            object.__setattr__(self, name, optional_seconds(name, getattr(self, name)))
        object.__setattr__(self, "reproducible", check_flag("reproducible", self.reproducible))
        if self.max_step_seconds is not None and self.reproducible:
            raise ValueError("max_step_seconds= cannot be used with reproducible=True, which ignores measured times")


__all__ = ["DriverName", "EngineOptions"]
