"""The C boundary: trimmed headers, the library loader, guarded calls and handles.

Importing it loads no library: ``ffi``, ``lib`` and ``binding`` bind one at their first use, which raises LibraryError
where there is none. ``media_ffi`` and ``media_lib`` do so with libmtmd, and raise UnsupportedError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._native.bound import bind_with, binding, ffi, lib, media_ffi, media_lib

if TYPE_CHECKING:
    from llama_cffi._native.bindings import Binding
    from llama_cffi._native.library import LibraryInfo


def _load() -> Binding:
    from llama_cffi._native import library

    return library.load()


def _load_media() -> Binding:
    from llama_cffi._native import media_library

    return media_library.load()


bind_with(_load, _load_media)


def library_info() -> LibraryInfo:
    """Return which libllama this process uses; loads it if need be, and raises LibraryError if it cannot."""
    from llama_cffi._native import library

    return library.info()


__all__ = ["binding", "ffi", "lib", "library_info", "media_ffi", "media_lib"]
