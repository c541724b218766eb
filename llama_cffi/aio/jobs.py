"""Calls on other threads, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import TypeVar

from llama_cffi._util.worker import ThreadPool

T = TypeVar("T")


async def on_thread(call: Callable[[], T]) -> T:
    """Return what a rare call returns, made on a thread of its own; unlike asyncio's, also at the end of a process."""
    pool = ThreadPool(1)
    try:
        return await asyncio.wrap_future(pool.submit(call))
    finally:
        pool.shutdown()


class Late(Exception):
    """A call has taken too long."""


async def within(seconds: float, job: Future[T], began: list[float]) -> T:
    """Return what a job returns that has begun when it is told there; :class:`Late` when it takes longer."""
    future = asyncio.wrap_future(job)
    while not future.done():
        left = seconds - (monotonic() - began[0] if began else 0.0)
        if left <= 0:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise Late
        try:
            await asyncio.wait({future}, timeout=left)
        except asyncio.CancelledError:
            future.cancel()
            raise
    return future.result()


__all__ = ["Late", "on_thread", "within"]
