"""What the images and sounds of a request are read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_cffi.errors import LlamaCffiError
from llama_cffi.prompt.media_parts import read_fetched, read_medium, url_of
from llama_cffi.server.media_hosts import HostRefused
from llama_cffi.server.problem import Problem, row_of


class RequestMedia:
    """What the media of a request are read from: its own data, and what was fetched for it."""

    def __init__(self, fetched: Mapping[str, bytes | Exception] | None = None) -> None:
        self._fetched = fetched if fetched is not None else {}

    def read(self, part: dict[str, Any], place: str) -> dict[str, Any]:
        """Return a part of a content that is a medium as the package takes it; :class:`Problem` names what is wrong."""
        try:
            url = url_of(part)
            found = None if url is None else self._fetched.get(url)
            if url is None or found is None:
                return read_medium(part, place)
            if isinstance(found, bytes):
                return read_fetched(part, found, place)
        except LlamaCffiError as error:
            raise Problem(400, error.message, code=row_of(type(error)).code, param=place) from None
        code = "unsupported_parameter" if isinstance(found, HostRefused) else "media_not_fetched"
        raise Problem(400, f"{place}: {url[:100]}: {found}", code=code, param=place)


__all__ = ["RequestMedia"]
