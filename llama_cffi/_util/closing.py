"""The bases of objects that are used in ``with`` or ``async with``, and closed at its end."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closing:
    """Base of objects with a ``close()``, which ``with`` calls at its end."""

    __slots__ = ()

    def close(self) -> None:
        """Give back what is held. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClosing:
    """Base of objects with a coroutine ``aclose()``, which ``async with`` awaits at its end."""

    __slots__ = ()

    async def aclose(self) -> None:
        """Give back what is held. Idempotent."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


__all__ = ["AsyncClosing", "Closing"]
