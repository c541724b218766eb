"""The library of this process, behind proxies that bind it at their first use.

Importing this module, and with it every module above, loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

from llama_cffi._native.bindings import Binding


class _AtFirstUse(ModuleType):
    """Answers like the object that ``make`` returns, which is called when an attribute is first asked for.

    What was asked for once is an attribute of this object from then on. It is a module because a module's own
    ``__getattr__`` costs nothing where an attribute is found: taking a function from ``lib`` is as fast as from cffi's
    own object. A ``__getattr__`` in a class makes every attribute of its objects slower.
    """

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        super().__init__(name)

        def find(name: str) -> Any:
            if name.startswith("__"):
                # Inspection by Python and its tools must not load a library.
                raise AttributeError(name)
            value = getattr(make(), name)
            setattr(self, name, value)
            return value

        vars(self)["__getattr__"] = find


def _not_given() -> Binding:
    raise RuntimeError("bind_with() was not called")


_load: Callable[[], Binding] = _not_given
_load_media: Callable[[], Binding] = _not_given


def bind_with(load: Callable[[], Binding], load_media: Callable[[], Binding]) -> None:
    """Set the functions that bind libllama and libmtmd. The loaders use modules that use this one, so they cannot be
    imported here."""
    global _load, _load_media
    _load, _load_media = load, load_media


binding = cast(Binding, _AtFirstUse("binding", lambda: _load()))
"""The binding, which knows what the library has."""

ffi: Any = _AtFirstUse("ffi", lambda: _load().ffi)
"""The cffi FFI of the trimmed headers."""

lib: Any = _AtFirstUse("lib", lambda: _load().lib)
"""The library's functions and constants."""

media_ffi: Any = _AtFirstUse("media_ffi", lambda: _load_media().ffi)
"""The cffi FFI of libmtmd's trimmed headers, with types of its own: pointers are cast between the two."""

media_lib: Any = _AtFirstUse("media_lib", lambda: _load_media().lib)
"""libmtmd's functions and constants; the first one loads it, and raises UnsupportedError where it cannot be used."""


def home(name: str) -> Binding:
    """Return the binding that has a function: that of libmtmd for its own, else that of libllama."""
    return _load_media() if name.startswith("mtmd_") else _load()


__all__ = ["bind_with", "binding", "ffi", "home", "lib", "media_ffi", "media_lib"]
