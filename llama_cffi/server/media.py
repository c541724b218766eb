"""Requests with images and sounds: what is on other hosts is fetched, and all is read off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi.prompt.media_parts import url_of
from llama_cffi.server.body import LONG
from llama_cffi.server.request_media import RequestMedia

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call

T = TypeVar("T")

_MAX_PARTS = 1 << 16
"""Parts that are looked at for URLs."""


async def read_with_media(call: Call, read: Callable[[Call], T], earlier: list[Any] | None = None) -> T:
    """Return what ``read`` makes of a call, once its media are there.

    ``earlier`` are turns before those of the body. A long body is read on another thread: images are decompressed
    there, and streams go on meanwhile.
    """
    fetcher = call.service.fetcher
    if fetcher is not None and call.media is not None:
        urls = list(_urls(call.body.get("messages"), call.body.get("input"), earlier))
        if urls:
            call.media = RequestMedia(await fetcher.fetch_all(urls))
            return await asyncio.to_thread(read, call)
    if call.media is None or len(call.data) < LONG:
        return read(call)
    return await asyncio.to_thread(read, call)


def _urls(*conversations: Any) -> Iterator[str]:
    """The http and https URLs of the media of a conversation, in every dialect."""
    n_left = _MAX_PARTS
    for turns in conversations:
        # A turn has a content, or an output; a result of a tool among its parts has a content, too.
        level = [turns] if isinstance(turns, list) else []
        for _ in range(3):
            following: list[list[Any]] = []
            for one in (part for parts in level for part in parts):
                n_left -= 1
                if n_left < 0:
                    return
                if not isinstance(one, dict):
                    continue
                if (url := url_of(one)) is not None:
                    yield url
                following += [inner for key in ("content", "output") if isinstance(inner := one.get(key), list)]
            level = following


__all__ = ["read_with_media"]
