"""A time limit that becomes the answer to a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llama_cffi.server.problem import Problem


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Cancel what is inside when it takes longer, and raise :class:`Problem` 504."""
    task, loop, late = asyncio.current_task(), asyncio.get_running_loop(), False

    def end() -> None:
        nonlocal late
        late = True
        if task is not None:
            task.cancel()

    timer = loop.call_later(seconds, end)
    try:
        yield
    except asyncio.CancelledError:
        if late:
            raise Problem(504, f"the request took more than {seconds:g} seconds", code="request_timeout") from None
        raise
    finally:
        timer.cancel()


__all__ = ["within"]
