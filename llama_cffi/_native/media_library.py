"""libmtmd of the libllama of this process: found beside it, checked and bound at the first use of media.

A program that uses no media never opens it, and where it is missing or does not fit, everything else works: what needs
it raises UnsupportedError with the reason.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cffi._native import cache, companions, elf, library, log
from llama_cffi._native.bindings import ApiBinding, Binding, Mode
from llama_cffi._util.files import identity
from llama_cffi._util.fork import fork_safe
from llama_cffi.errors import LibraryError, UnsupportedError

_EXTENSION = "llama_cffi._native._mtmd"


@dataclass(frozen=True, slots=True)
class MediaLibrary:
    """The libmtmd of this process: its file (None where there is none), how it is bound, and the ``problem`` with it,
    "" for one that can be used."""

    path: Path | None
    mode: Mode | None
    problem: str


class _OpenedBinding(ApiBinding):
    """A libmtmd opened by path, with the declarations of the pinned release, to which it was compared."""

    mode: Mode = "abi"

    def __init__(self, ffi: Any, opened: Any) -> None:
        self.ffi, self.lib = ffi, opened

    def function(self, name: str) -> Any:
        return getattr(self.lib, name)


_lock = fork_safe(threading.RLock())
_binding: Binding | None = None
_path: Path | None = None
_failure: str | None = None
_opened: list[Any] = []
"""What must never be closed."""


def load() -> Binding:
    """Return the binding to libmtmd. Raises :class:`UnsupportedError` with the reason where it cannot be used, and
    LibraryError where there is no libllama either."""
    global _binding, _failure
    library.load()
    with _lock:
        if _failure is not None:
            raise UnsupportedError(_failure)
        if _binding is None:
            try:
                _binding = _load()
            except (LibraryError, elf.ElfError, OSError) as error:
                _failure = f"images and sound cannot be used: {error}"
                raise UnsupportedError(_failure) from error
        return _binding


def status() -> MediaLibrary:
    """Return which libmtmd there is, loading it if need be."""
    try:
        mode = load().mode
    except UnsupportedError as error:
        return MediaLibrary(_path, None, error.message)
    return MediaLibrary(_path, mode, "")


def _load() -> Binding:
    global _path
    main = library.opened_file()
    found = companions.find(main.parent, "mtmd")
    if found is None:
        raise LibraryError(f"there is no libmtmd beside {main}")
    _path = found
    _check_belongs(found, main)
    binding: Binding
    if library.load().mode == "api" and _extension_fits():
        _open(found)
        module = importlib.import_module(_EXTENSION)
        _verify(module, found)
        binding = ApiBinding(module)
    else:
        # A renamed copy asks for the others by names that only this process knows.
        _check(companions.find(library.info().path.parent, "mtmd") or found)
        from llama_cffi._native.abi.modules import load_media_ffi

        ffi = load_media_ffi()
        try:
            binding = _OpenedBinding(ffi, ffi.dlopen(os.fspath(found), _flags()))
        except OSError as error:
            raise LibraryError(f"{found} cannot be opened: {error}") from error
    log.catch(binding.ffi, binding.lib.mtmd_helper_log_set)
    return binding


def _check_belongs(path: Path, main: Path) -> None:
    """Refuse a libmtmd that would bring another libllama into the process."""
    if sys.platform != "linux":
        return
    wanted = [name for name in elf.read(path).needed if "llama" in name]
    name = elf.read(main).soname
    if name not in elf.read(path).needed:
        raise LibraryError(f"{path} was built with {', '.join(wanted) or 'no libllama'}, not with {name}")


def _extension_fits() -> bool:
    """Whether the compiled extension is there, and made from the headers of this libmtmd."""
    found = importlib.util.find_spec(_EXTENSION)
    hash_of = str(library.info().stamp.get("media_header_hash", ""))
    if found is None or not found.origin or not hash_of:
        return False
    # Its bytes are searched, because importing it would map the library that it was linked to.
    return hash_of.encode() in Path(found.origin).read_bytes()


def _flags() -> int:
    return os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_NODELETE", 0)


def _open(path: Path) -> None:
    import _cffi_backend

    try:
        _opened.append(_cffi_backend.FFI().dlopen(str(path), _flags()))
    except OSError as error:
        raise LibraryError(f"{path} cannot be opened: {error}") from error


def _verify(module: Any, path: Path) -> None:
    address = module.lib.llama_cffi_media_path()
    actual = Path(os.fsdecode(module.ffi.string(address))) if address else None
    if actual is None or not actual.exists() or not actual.samefile(path):
        raise LibraryError(
            f"the extension was bound to {actual} instead of {path}: another package has opened its own libmtmd; "
            "call llama_cffi.use_library(path, private=True)"
        )


def _check(path: Path) -> None:
    """Refuse a library that differs from the pinned release's; what a probe found is kept."""
    from llama_cffi._native.abi import media
    from llama_cffi._native.abi.modules import media_headers

    digest = hashlib.sha256(media_headers().encode() + Path(media.__file__).read_bytes()).hexdigest()
    beside = [*companions.before(path), path] if sys.platform == "linux" else [path]
    key = [digest, *([str(one), *identity(one)] for one in beside)]
    kept = cache.folder() / "probes" / f"media-{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"
    data = cache.read(kept)
    if data is None or data.get("key") != key or not isinstance(data.get("differences"), list):
        from llama_cffi._native.probe import probe

        fingerprint = probe(path, functions=media.DEFAULTS, symbols=media.functions(), kind="libmtmd")
        data = {"key": key, "differences": media.differences(fingerprint)}
        cache.write(kept, data)
    if data["differences"]:
        lines = "".join(f"\n  {line}" for line in data["differences"][:20])
        raise LibraryError(f"{path} is not of the release whose binary interface is known:{lines}")


__all__ = ["MediaLibrary", "load", "status"]
