"""The bound library as the layers above see it, however it was bound."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Mode = Literal["api", "abi"]


class Binding(Protocol):
    """llama.h bound to one loaded libllama.

    ``ffi`` makes its types, ``lib`` holds its functions and constants. A function that the library lacks raises
    :class:`UnsupportedError` when it is taken from ``lib``, never before.
    """

    @property
    def mode(self) -> Mode:
        """``"api"`` for the compiled extension, ``"abi"`` for declarations with the library's own layouts."""

    @property
    def ffi(self) -> Any:
        """The cffi FFI of the trimmed headers."""

    @property
    def lib(self) -> Any:
        """Functions and constants by name."""

    def function(self, name: str) -> Any:
        """A function as a typed C function pointer."""

    def has(self, name: str) -> bool:
        """Whether the library has a function or a constant, or a "struct.field"."""


class ApiBinding:
    """The compiled extension ``_llama``: the compiler checked every signature against the pinned headers."""

    mode: Mode = "api"

    def __init__(self, extension: Any) -> None:
        self.ffi: Any = extension.ffi
        self.lib: Any = extension.lib

    def function(self, name: str) -> Any:
        return self.ffi.addressof(self.lib, name)

    def has(self, name: str) -> bool:
        struct, dot, field = name.partition(".")
        if not dot:
            return hasattr(self.lib, name)
        return field in dict(self.ffi.typeof(f"struct {struct}").fields)


__all__ = ["ApiBinding", "Binding", "Mode"]
