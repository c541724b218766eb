"""The calls that have not ended, and the coroutines that wait until all have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial


class Running:
    """A set of calls. Any thread may add and remove: each operation on the set is atomic."""

    def __init__(self) -> None:
        self._calls: set[Hashable] = set()
        self._wakes: list[Callable[[], object]] = []

    def add(self, call: Hashable) -> None:
        """Note that a call has begun."""
        self._calls.add(call)

    def remove(self, call: Hashable) -> None:
        """Note that a call has ended, if that is not known; the end of the last one wakes what waits for it."""
        self._calls.discard(call)
        if not self._calls:
            for wake in tuple(self._wakes):
                with suppress(RuntimeError):  # its loop is closed
                    wake()

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


__all__ = ["Running"]
