"""The C boundary: trimmed headers, the library loader, guarded calls and handles.

``ffi``, ``lib`` and ``binding``, which holds both, are bound on first access: importing this package loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi._native.binding import Binding
    from llama_cffi._native.library import LibraryInfo

    ffi: Any
    lib: Any
    binding: Binding
else:
    # The module of that name takes its place here when it is imported first: now, and never again.
    import llama_cffi._native.binding  # noqa: F401

    del binding  # noqa: F821

    def __getattr__(name: str) -> Any:
        if name not in ("ffi", "lib", "binding"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from llama_cffi._native import library

        bound = library.load()
        globals().update(ffi=bound.ffi, lib=bound.lib, binding=bound)
        return globals()[name]


def library_info() -> LibraryInfo:
    """Return which libllama this process uses; loads it if need be, and raises LibraryError if it cannot."""
    from llama_cffi._native import library

    return library.info()


__all__ = ["binding", "ffi", "lib", "library_info"]
