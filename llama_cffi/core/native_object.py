"""The base of all objects that own a native object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_cffi._util.closing import Closing
from llama_cffi._util.process_bound import ProcessBound

if TYPE_CHECKING:
    from llama_cffi._native.handle import Handle


class NativeObject(Closing, ProcessBound):
    """Owns a native object through its Handle: usable until :meth:`close`, which ``with`` calls at its end."""

    _handle: Handle

    @property
    def handle(self) -> Handle:
        """The owner of the native pointer."""
        return self._handle

    @property
    def ptr(self) -> Any:
        """The native pointer, a cffi object; :class:`ClosedError` after close."""
        return self._handle.ptr

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` ran, or what this depends on was closed."""
        return self._handle.closed

    def close(self) -> None:
        """Free the native object. Idempotent."""
        self._handle.close()


__all__ = ["NativeObject"]
