"""The calls that have not ended, and the coroutines that wait until all have, or for the next one to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeVar

from llama_cffi.errors import BusyError

T = TypeVar("T")

_LOOK_SECONDS = 1.0
"""How often an attempt is made again when no end is noted."""


class Running:
    """A set of calls. Any thread may add and remove: each operation on the set is atomic."""

    def __init__(self) -> None:
        self._calls: set[Hashable] = set()
        self._wakes: list[Callable[[], object]] = []
        self._ends: list[Callable[[], object]] = []

    def add(self, call: Hashable) -> None:
        """Note that a call has begun."""
        self._calls.add(call)

    def remove(self, call: Hashable) -> None:
        """Note that a call has ended, if that is not known; the end of the last one wakes what waits for it."""
        self._calls.discard(call)
        if not self._calls:
            _call(self._wakes)

    def end(self, request: Hashable) -> None:
        """Note that a request has ended, which has left its slot; wakes what waits for that, too."""
        self.remove(request)
        _call(self._ends)

    async def retry(self, attempt: Callable[[], Awaitable[T]], timeout: float) -> T:
        """Return what an attempt returns; while it raises :class:`BusyError`, make it again after the end of a request.

        Also each second: the ends of requests that are not in this set are not noted. Raises that error after
        ``timeout`` seconds.
        """
        until = monotonic() + timeout
        ended = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)
        self._ends.append(wake)
        try:
            while True:
                # Before the attempt, so that no end comes between the two.
                ended.clear()
                try:
                    return await attempt()
                except BusyError:
                    left = until - monotonic()
                    if left <= 0:
                        raise
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ended.wait(), min(left, _LOOK_SECONDS))
        finally:
            self._ends.remove(wake)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(tuple(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    async def wait(self, timeout: float | None) -> None:
        """Return when no call is left; raises :class:`TimeoutError` when some are after ``timeout`` seconds."""
        none_left = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, none_left.set)
        # Before the first look, so that no end comes between the two.
        self._wakes.append(wake)
        try:
            if self._calls:
                await asyncio.wait_for(self._until(none_left), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"{len(self)} calls still run after {timeout} seconds") from None
        finally:
            self._wakes.remove(wake)

    async def _until(self, none_left: asyncio.Event) -> None:
        while self._calls:
            await none_left.wait()
            none_left.clear()


def _call(wakes: list[Callable[[], object]]) -> None:
    for wake in tuple(wakes):
        with suppress(RuntimeError):  # its loop is closed
            wake()


__all__ = ["Running"]
