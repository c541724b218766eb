"""The C boundary: trimmed headers, the library loader, guarded calls and handles.

``ffi`` and ``lib`` are bound on first access, so importing this package loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi._native.library import LibraryInfo

    ffi: Any
    lib: Any
else:

    def __getattr__(name: str) -> Any:
        if name not in ("ffi", "lib"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from llama_cffi._native import library

        module = library.load()
        globals().update(ffi=module.ffi, lib=module.lib)
        return globals()[name]


def library_info() -> LibraryInfo:
    """Return which libllama this process uses; loads it if need be, and raises LibraryError if it cannot."""
    from llama_cffi._native import library

    return library.info()


__all__ = ["ffi", "lib", "library_info"]
