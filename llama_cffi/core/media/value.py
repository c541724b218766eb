"""What images, sounds and videos have in common: each is a value."""

from __future__ import annotations

from typing import Any, NoReturn

from llama_cffi._util.shown import with_article

DIGEST_SIZE = 16
"""Bytes of the digests of media."""


class MediaValue:
    """A medium that cannot be changed. It compares and hashes by its digest, and a copy of it is itself."""

    __slots__ = ("digest",)

    digest: bytes
    """A hash of everything in it."""

    def _hold(self, **fields: Any) -> None:
        """Set the fields, once."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{with_article(self)} cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{with_article(self)} cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __copy__(self) -> MediaValue:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MediaValue:
        return self


__all__ = ["DIGEST_SIZE", "MediaValue"]
