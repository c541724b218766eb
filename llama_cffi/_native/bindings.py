"""The bound library, with the same interface for both modes of binding."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llama_cffi.errors import LibraryError, UnsupportedError

if TYPE_CHECKING:
    from llama_cffi._native.abi import Generation

Mode = Literal["api", "abi"]

# Structs that travel by value as one word after the other: spelled so, the guard can call the function.
_AS_WORDS = {"gguf_init_from_file": "struct gguf_context *(*)(const char *, bool no_alloc, void *ctx)"}


class Binding(Protocol):
    """llama.h bound to one loaded libllama.

    ``ffi`` makes its types, ``lib`` holds its functions and constants. One that the library lacks raises
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
        """Return a function as a typed C function pointer, with no struct of two words among its arguments."""

    def parameters(self, name: str) -> tuple[str, ...]:
        """Return the names of a function's parameters, as this library's llama.h has them."""

    def has(self, name: str) -> bool:
        """Return whether the library has a function or a constant, or a "struct.field"."""


class ApiBinding:
    """The compiled extension ``_llama``: the compiler checked every signature against the pinned headers."""

    mode: Mode = "api"

    def __init__(self, extension: Any) -> None:
        self.ffi: Any = extension.ffi
        self.lib: Any = extension.lib

    def function(self, name: str) -> Any:
        return _spelled(self.ffi, name, self.ffi.addressof(self.lib, name))

    def parameters(self, name: str) -> tuple[str, ...]:
        from llama_cffi._native.abi import pinned_functions

        return _parameters(pinned_functions()[name])

    def has(self, name: str) -> bool:
        return _has_field(self.ffi, name) if "." in name else hasattr(self.lib, name)


class AbiBinding:
    """A library opened by path, with the declarations of its ABI generation."""

    mode: Mode = "abi"

    def __init__(self, ffi: Any, opened: Any, generation: Generation, doubtful: Collection[str]) -> None:
        self.ffi: Any = ffi
        self.generation = generation
        self.doubtful = frozenset(doubtful)
        self.lib: Any = _Names(ffi, opened, generation, self.doubtful)

    def function(self, name: str) -> Any:
        return _spelled(self.ffi, name, getattr(self.lib, name))

    def parameters(self, name: str) -> tuple[str, ...]:
        getattr(self.lib, name)  # raises when the library lacks it
        return _parameters(self.generation.function(name) or "")

    def has(self, name: str) -> bool:
        struct, dot, _ = name.partition(".")
        if dot:
            return f"struct {struct}" not in self.doubtful and _has_field(self.ffi, name)
        try:
            getattr(self.lib, name)
        except (UnsupportedError, AttributeError):
            return False
        return True


class _Names:
    """What a library has, by name: looked up once, then a plain attribute."""

    def __init__(self, ffi: Any, opened: Any, generation: Generation, doubtful: frozenset[str]) -> None:
        self._ffi, self._opened, self._generation, self._doubtful = ffi, opened, generation, doubtful

    def __getattr__(self, name: str) -> Any:
        if (doubt := self._doubt(name)) is not None:
            raise UnsupportedError(f"{name} cannot be used: this libllama may have another {doubt} than the one known")
        try:
            found = getattr(self._opened, name)
        except self._ffi.error:
            raise missing(name) from None  # declared, but not in this file
        except AttributeError:
            from llama_cffi._native.abi import since

            if since(name) is None:
                raise  # a name of no llama.cpp: a mistake in the caller's code
            raise missing(name) from None
        setattr(self, name, found)
        return found

    def _doubt(self, name: str) -> str | None:
        """What is in doubt about a name: itself, or a struct in its declaration."""
        if not self._doubtful:
            return None
        words = re.findall(r"\w+", self._generation.function(name) or "")
        return next((one for one in (name, *(f"struct {word}" for word in words)) if one in self._doubtful), None)


def bind_abi(
    path: Path, generation: Generation, *, doubtful: Collection[str] = (), modules_folder: Path | None = None
) -> AbiBinding:
    """Open a library and bind it with the declarations of a generation that it was found to have.

    Functions and constants that the generation lacks, or the file does, raise :class:`UnsupportedError` at use, as
    do those that ``doubtful`` names or that handle a struct named there. The declarations of a generation that is not
    among the known ones are kept in ``modules_folder``. Raises :class:`LibraryError` when the file cannot be opened.
    """
    from llama_cffi._native.abi.modules import load_ffi

    ffi = load_ffi(generation, modules_folder)
    # Nothing of it may go away: llama.cpp's threads and plug-ins outlive what the interpreter collects at exit.
    flags = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_NODELETE", 0)
    try:
        opened = ffi.dlopen(os.fspath(path), flags)
    except OSError as error:
        raise LibraryError(f"cannot open {path}: {error}") from error
    return AbiBinding(ffi, opened, generation, doubtful)


def missing(name: str, option: str = "") -> UnsupportedError:
    """Return what to raise for a function or a constant, or a "struct.field", that the library lacks.

    ``option`` is what the user asked for, in the user's words.
    """
    from llama_cffi._native import abi

    message = f"this libllama does not support {option}: it has no {name}" if option else f"this libllama has no {name}"
    since, until = abi.since(name), abi.until(name)
    if since is None:
        return UnsupportedError(message)
    times = f"had from {since} to {until}" if until is not None else f"has since {since}"
    return UnsupportedError(f"{message}, which llama.cpp {times}", since=since.name)


def _has_field(ffi: Any, name: str) -> bool:
    struct, _, field = name.partition(".")
    try:
        # Not the type's list of fields: cffi ends the process when asked for those of an opaque struct.
        ffi.offsetof(f"struct {struct}", field)
    except (ffi.error, TypeError, KeyError):
        return False
    return True


def _parameters(declaration: str) -> tuple[str, ...]:
    words = declaration.partition("(")[2].rpartition(")")[0].split(",")
    return tuple(re.findall(r"\w+", word)[-1] for word in words if word.strip() not in ("", "void"))


def _spelled(ffi: Any, name: str, function: Any) -> Any:
    return ffi.cast(_AS_WORDS[name], function) if name in _AS_WORDS else function


__all__ = ["AbiBinding", "ApiBinding", "Binding", "Mode", "bind_abi", "missing"]
