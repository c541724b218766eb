"""One of several models: what is known of it, and the state that it is in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi.server.problem import Problem

if TYPE_CHECKING:
    from llama_cffi.server.router.process import ModelProcess

Status = Literal["unloaded", "loading", "loaded", "unloading", "sleeping", "failed"]
Source = Literal["models_dir", "preset", "hub", "command"]

STABLE_SECONDS = 60.0
"""A process that was loaded for so long is restarted without a pause."""
_MOST_SECONDS = 60.0
"""The longest pause before a model that fails again and again is tried again."""


@dataclass(frozen=True)
class Entry:
    """A model that can be asked for."""

    id: str
    arguments: tuple[str, ...]
    """What ``llama-cffi serve`` is told in the model's own process."""
    source: Source
    created: int
    """Seconds since 1970: when its file was last changed."""
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """Names of its LoRA adapters, each of which can be asked for as a model."""
    load_on_startup: bool = False
    stop_timeout: float | None = None
    """Seconds that running requests have when it is unloaded; by default as for the end of the server."""


@dataclass(frozen=True)
class Failure:
    """Why a model could not be loaded, or why its process ended."""

    message: str
    code: str
    status: int = 503
    exit_code: int | None = None
    abandoned: bool = False
    """Whether it was given up because no request needed it any more."""

    def problem(self, retry_seconds: float = 1.0) -> Problem:
        """Return the answer to a request that it fails."""
        headers = {"Retry-After": str(max(1, round(retry_seconds)))} if self.status == 503 else {}
        return Problem(self.status, self.message, code=self.code, headers=headers)


class ManagedModel:
    """A model with its state; :class:`~llama_cffi.server.router.pool.Pool` alone changes it."""

    def __init__(self, entry: Entry, on_change: Callable[[ManagedModel], object]) -> None:
        self.entry = entry
        self.status: Status = "unloaded"
        self.process: ModelProcess | None = None
        self.changing: asyncio.Task[Failure | None] | None = None
        """What loads or unloads it; its result is why it could not be loaded."""
        self.card: dict[str, Any] = {}
        """What its process says of it, since it was last loaded."""
        self.progress = 0.0
        """The part that is loaded."""
        self.memory = 0
        """Bytes that are counted for it: those of its plan, from when it may be loaded until its process has ended."""
        self.granted = False
        """Whether it may have memory."""
        self.wanted = False
        """Whether it is to be loaded although no request waits for it."""
        self.n_active, self.n_waiting = 0, 0
        """Requests that its process answers, and requests that wait for it."""
        self.last_used = 0.0
        self.loaded_at = 0.0
        self.n_loads, self.n_failures, self.n_crashes = 0, 0, 0
        """How often it was loaded; failures one after the other; how often its process ended by itself."""
        self.failure: Failure | None = None
        self.retry_at = 0.0
        """Before this time it is not loaded again."""
        self._on_change = on_change

    @property
    def id(self) -> str:
        """Its name."""
        return self.entry.id

    @property
    def idle(self) -> bool:
        """Whether no request needs it."""
        return not self.n_active and not self.n_waiting

    def become(self, status: Status) -> None:
        """Change the state, and tell those that wait for it."""
        self.status = status
        if status == "loading":
            self.progress = 0.0
        self.changed()

    def changed(self) -> None:
        """Tell those that wait that something is different."""
        self._on_change(self)

    def advance(self, part: float) -> None:
        """Note how much of it is loaded."""
        self.progress = part
        self.changed()

    def gone(self) -> None:
        """Note that it has no process any more, and no memory."""
        self.process, self.memory, self.granted = None, 0, False

    def fail(self, failure: Failure) -> None:
        """Note a failure; each one after the other doubles the pause before it is tried again."""
        now = time.monotonic()
        crashed = self.status == "loaded"
        if crashed:
            self.n_crashes += 1
        if crashed and now - self.loaded_at >= STABLE_SECONDS:
            self.n_failures = 0
        # The first crash of a model that answered is not waited for.
        pause = min(_MOST_SECONDS, 2.0 ** (self.n_failures - crashed)) if self.n_failures or not crashed else 0.0
        self.n_failures += 1
        self.failure, self.retry_at = failure, now + pause
        self.become("failed")

    def forgive(self) -> None:
        """Forget failures: it is tried again at once."""
        self.n_failures, self.retry_at = 0, 0.0

    def told(self) -> dict[str, Any]:
        """Return the state as clients are told."""
        found: dict[str, Any] = {"value": self.status}
        if self.status == "loading":
            found["progress"] = {"stages": ["text_model"], "current": "text_model", "value": self.progress}
        if self.status == "failed" and self.failure is not None:
            found |= {"failed": True, "exit_code": self.failure.exit_code, "message": self.failure.message}
        return found

    def described(self) -> dict[str, Any]:
        """Return the model as the list of models has it."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.entry.created,
            "owned_by": "llama_cffi",
            "aliases": list(self.entry.aliases),
            "tags": list(self.entry.tags),
            "meta": self.card.get("meta"),
            "max_model_len": self.card.get("max_model_len"),
            "source": self.entry.source,
            "status": self.told(),
        }

    def adapters_described(self) -> list[dict[str, Any]]:
        """Return its adapters, as the list of models has them."""
        return [{**self.described(), "id": name, "aliases": [], "parent": self.id} for name in self.entry.adapters]


__all__ = ["STABLE_SECONDS", "Entry", "Failure", "ManagedModel", "Source", "Status"]
