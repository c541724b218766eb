"""What an engine is doing, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineSnapshot:
    """Counts of one moment."""

    running: int
    """Requests that have a slot."""
    waiting: int
    """Requests that have none yet."""
    waiting_tokens: int
    """Tokens of their prompts."""
    slots: int
    """Requests that can run at once."""
    failed: bool
    """Whether the engine's thread has ended with an unexpected exception."""


__all__ = ["EngineSnapshot"]
