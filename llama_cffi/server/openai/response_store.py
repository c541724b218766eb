"""Responses that are kept in memory, so that a later one can go on from them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from llama_cffi.server.problem import Problem

MAX_BYTES = 64 << 20
"""JSON of the input and the output of all responses that are kept."""


@dataclass(frozen=True)
class Stored:
    """A response that is kept."""

    response: dict[str, Any]
    items: list[Any]
    """The conversation up to and with this response, as items."""
    size: int

    @property
    def input_items(self) -> list[Any]:
        """The items that the response followed."""
        return self.items[: len(self.items) - len(self.response["output"])]


class ResponseStore:
    """The last responses; the oldest is forgotten first. One event loop uses it."""

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self.limit, self._max_bytes = limit, max_bytes
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, response: dict[str, Any], items: list[Any]) -> None:
        """Keep a response that followed these items."""
        if self.limit < 1:
            return
        size = len(orjson.dumps(items)) + len(orjson.dumps(response))
        self._kept[response["id"]] = Stored(response, [*items, *response["output"]], size)
        self._size += size
        while len(self._kept) > self.limit or self._size > self._max_bytes:
            self._size -= self._kept.popitem(last=False)[1].size

    def get(self, name: str) -> Stored:
        """Return a response; :class:`Problem` where it is not kept."""
        found = self._kept.get(name)
        if found is None:
            why = "it was not kept, or is forgotten" if self.limit else "none is kept without --response-store"
            raise Problem(404, f"there is no response {name[:200]!r}: {why}", code="response_not_found")
        return found

    def remove(self, name: str) -> None:
        """Forget a response; :class:`Problem` where it is not kept."""
        self._size -= self.get(name).size
        del self._kept[name]


__all__ = ["MAX_BYTES", "ResponseStore", "Stored"]
