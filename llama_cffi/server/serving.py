"""What every server has, whatever answers behind it: settings, the requests that run, and its end."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from llama_cffi.engine.telemetry import Histogram
from llama_cffi.server.problem import Problem
from llama_cffi.server.settings import Settings

State = Literal["loading", "ready", "failed", "draining"]


class Serving:
    """The part of a server that counts its requests and ends them in order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self.state: State = "loading"
        self.tasks: set[asyncio.Task[None]] = set()
        """One for each request that is being answered."""
        self.cutting = False
        """Whether what still runs is being ended."""
        self.loop_lag = Histogram()
        """How late the event loop runs what is due."""

    async def load(self) -> None:
        """Prepare what answers; raises what that raises."""

    async def close(self) -> None:
        """Close what answers."""

    def begin_drain(self) -> None:
        """Take no more requests, and end those that run when their time is over. Twice ends them at once."""
        if self.state == "draining":
            self.cut()
            return
        self.state = "draining"
        asyncio.get_running_loop().call_later(self.settings.drain_timeout, self.cut)

    def cut(self) -> None:
        """End every request with an error, in the form of its dialect. Idempotent: the error may be on its way."""
        if self.cutting:
            return
        self.cutting = True
        for task in tuple(self.tasks):
            task.cancel()


def cut_off() -> Problem:
    """Return the problem of a request that the end of the server cut."""
    return Problem(503, "the server is shutting down", code="shutting_down")


def not_taken() -> Problem:
    """Return the problem of a request that comes after the server was told to end."""
    return Problem(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})


__all__ = ["Serving", "State", "cut_off", "not_taken"]
