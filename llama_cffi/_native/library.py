"""Choosing a libllama, binding it once, and refusing one that cannot be trusted."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi._native import companions, renamed_copies, search_paths
from llama_cffi._native.bindings import ApiBinding, Binding, Mode, bind_abi
from llama_cffi._native.elf import ElfError
from llama_cffi._native.search_paths import ENV_VAR, Source
from llama_cffi._util.fork import fork_safe
from llama_cffi.errors import LibraryError

if TYPE_CHECKING:
    from llama_cffi._native.compatibility import CheckedLibrary

BINDING_VAR = "LLAMA_CFFI_BINDING"

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """The libllama of this process and its properties.

    ``source`` is how it was found, ``mode`` how it is bound, ``generation`` its known (or derived) binary interface in
    ABI mode, and ``doubts`` the reasons why some of that is uncertain. ``version`` is the version that the library
    reports, or the release in its file's name, or "". ``helpers`` are "compiled" or "python". ``stamp`` is the record
    of its build (commit, flags, compiler, header hash), {} for a library that was not built with the package.
    """

    path: Path
    directory: Path
    source: Source
    mode: Mode
    version: str
    commit: str
    generation: str | None
    doubts: tuple[str, ...]
    helpers: Literal["compiled", "python"]
    stamp: dict[str, Any]


_lock = fork_safe(threading.RLock())
_chosen: Path | None = None
_include: Path | None = None
_private = False
_binding: Binding | None = None
_info: LibraryInfo | None = None
_file: Path | None = None
_failure: LibraryError | None = None
# A library object closes its library when it is collected, and these must never be closed.
_opened: list[Any] = []


def use_library(
    path: str | os.PathLike[str], *, include: str | os.PathLike[str] | None = None, private: bool = False
) -> None:
    """Set the libllama of this process: a file, or a folder that contains one. Call it before the first use.

    ``include`` is the folder of the llama.h that it was built from, which is needed for an unknown release. ``private``
    opens a copy with different library names, so that another llama.cpp that this process opens later does not get its
    parts; this is always done if another llama.cpp is already loaded. The library is opened at its first use. Raises
    LibraryError for a path without a library, for a second choice that differs from the first, and when another library
    is already in use. Repeating the same choice is allowed.
    """
    global _chosen, _include, _private, _failure
    with _lock:
        found, _ = search_paths.choose(Path(path))
        headers = Path(include).absolute() if include is not None else None
        if _chosen is not None and not (_same(_chosen, found) and (_include, _private) == (headers, private)):
            raise LibraryError(f"use_library() has already chosen {_chosen}, and a process can use only one libllama")
        if _info is not None and not _same(_info.path, found):
            raise LibraryError(f"{_info.path} is already in use: call use_library() before the first use")
        if _opened and _failure is not None:
            raise LibraryError("a library was opened and refused in this process: start a new process") from _failure
        if _info is None:
            _chosen, _include, _private, _failure = found, headers, private, None


def load() -> Binding:
    """Return the binding to a checked libllama.

    It is the one that :func:`use_library` or ``LLAMA_CFFI_LIB`` names, else the first of the bundled one, the
    checkout's build tree and the system's. Raises LibraryError with every path tried and the reason; a failure
    is final for the process, unless :func:`use_library` then names another library.
    """
    global _binding, _info, _file, _failure
    with _lock:
        if _failure is not None:
            raise _failure.with_traceback(None)
        if _binding is None:
            try:
                binding, info, file = _load()
            except LibraryError as error:
                _failure = error
                raise
            _binding, _info, _file = binding, info, file
        return _binding


def info() -> LibraryInfo:
    """Return what :func:`load` bound, loading it if need be."""
    load()
    if _info is None:
        raise LibraryError("libllama is still being loaded by this thread")
    return _info


def opened_file() -> Path:
    """Return the file that was opened: that of :func:`info`, or its renamed copy."""
    path = info().path
    return _file or path


def choice() -> dict[str, Any]:
    """Return what :func:`use_library` must be given in another process to have the same library there."""
    return {
        "path": str(info().path),
        "include": str(_include) if _include is not None else None,
        "private": _private,
    }


def helpers_kind() -> Literal["compiled", "python"]:
    """Return whether the C helpers are there, or Python and numpy do their work."""
    from llama_cffi._native.helpers import KIND

    return KIND


def _load() -> tuple[Binding, LibraryInfo, Path]:
    path, source = search_paths.choose(_chosen)
    stamp = read_stamp(path.parent)
    binding: Binding
    checked: CheckedLibrary | None = None
    try:
        files = [*companions.before(path), path]
    except (OSError, ElfError) as error:
        raise search_paths.failed([(path, str(error))], search_paths.advice(source)) from error
    if _wants_api(path, stamp):
        _open_all(files, source)
        module = _import_extension(source)
        _verify(module, path, source, stamp)
        binding = ApiBinding(module)
        version = module.ffi.string(module.lib.llama_version()).decode()
    else:
        from llama_cffi._native.compatibility import check_library, modules_folder

        checked = check_library(path, include=_include)
        if _private or renamed_copies.clashes(path):
            files = renamed_copies.copies(path)
        checked.verify()
        _open_all(files, source)
        binding = bind_abi(files[-1], checked.generation, doubtful=checked.doubtful, modules_folder=modules_folder())
        # Had another file taken the name of one for a moment, its times would tell.
        checked.verify()
        version = checked.version
    _initialize(binding, files[-1], source)
    found = LibraryInfo(
        path=path,
        directory=path.parent,
        source=source,
        mode=binding.mode,
        version=version,
        commit=str(stamp.get("commit", "")),
        generation=checked.generation.name if checked is not None else None,
        doubts=checked.reasons if checked is not None else (),
        helpers=helpers_kind(),
        stamp=stamp,
    )
    return binding, found, files[-1]


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def read_stamp(directory: Path) -> dict[str, Any]:
    """Return what the build of a library wrote down beside it or in the folder above; {} where there is nothing of
    ours."""
    for path in (directory / "stamp.json", directory.parent / "stamp.json"):
        try:
            stamp = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(stamp, dict) and "header_hash" in stamp:
            return stamp
    return {}


def _wants_api(path: Path, stamp: dict[str, Any]) -> bool:
    """Whether the compiled extension binds this library.

    It must have the headers that the extension was made from, and no other library may have its name: the extension
    finds it by that alone.
    """
    wanted = os.environ.get(BINDING_VAR)
    if wanted == "abi":
        return False
    if wanted == "api":
        return True
    if wanted:
        raise LibraryError(f'{BINDING_VAR} must be "api" or "abi", not {wanted!r}')
    # Its bytes are searched, because importing it would map the library that it was linked to.
    hash_of, extension = str(stamp.get("header_hash", "")), extension_file()
    fits = bool(hash_of) and extension is not None and hash_of.encode() in extension.read_bytes()
    return fits and not _private and not renamed_copies.clashes(path)


def extension_file() -> Path | None:
    """Return the compiled extension of API mode; None in an install that was made without a compiler."""
    found = importlib.util.find_spec("llama_cffi._native._llama")
    return Path(found.origin) if found is not None and found.origin else None


def _open_all(paths: list[Path], source: Source) -> None:
    """Map the libraries by absolute path, dependencies first: what is mapped wins over any search path."""
    import _cffi_backend

    opener = _cffi_backend.FFI()
    # Nothing is shown to other libraries of this process, and nothing goes away before it.
    flags = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_NODELETE", 0)
    for path in paths:
        try:
            _opened.append(opener.dlopen(str(path), flags))
        except OSError as error:
            raise search_paths.failed([(path, str(error))], search_paths.advice(source)) from error


def _import_extension(source: Source) -> Any:
    try:
        return importlib.import_module("llama_cffi._native._llama")
    except ImportError as error:
        raise search_paths.failed([(_HERE / "_llama", str(error))], search_paths.advice(source)) from error


def _verify(module: Any, path: Path, source: Source, stamp: dict[str, Any]) -> None:
    """What API mode relies on: the extension found this very library, of the headers that it was compiled against."""
    ffi, lib = module.ffi, module.lib
    help_text = search_paths.advice(source)
    address = lib.llama_cffi_library_path()
    actual = Path(os.fsdecode(ffi.string(address))) if address else None
    if actual is None or not actual.exists() or not actual.samefile(path):
        raise search_paths.failed([(path, f"the extension was bound to {actual} instead")], help_text)
    compiled = ffi.string(lib.LLAMA_CFFI_VERSION).decode()
    version = ffi.string(lib.llama_version()).decode()
    if version != compiled:
        reason = f"is llama.cpp {version}, but this build of llama_cffi needs {compiled}"
        raise search_paths.failed([(path, reason)], help_text)
    expected = ffi.string(lib.LLAMA_CFFI_HEADER_HASH).decode()
    actual_hash = stamp.get("header_hash")
    if actual_hash != expected:
        reason = f"belongs to headers with hash {actual_hash}, but this build of llama_cffi needs {expected}"
        raise search_paths.failed([(path, reason)], help_text)


def _initialize(binding: Binding, path: Path, source: Source) -> None:
    from llama_cffi._native import guard, log

    ffi, lib = binding.ffi, binding.lib
    log.install(ffi, lib)
    guard.install(ffi, lib)

    def has_cpu() -> bool:
        return bool(lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU) != ffi.NULL)

    # Not ggml_backend_load_all(): it looks into the current folder, too.
    for folder in dict.fromkeys(plugin.parent for plugin in companions.plugins(path.parent)):
        if not has_cpu():
            lib.ggml_backend_load_all_from_path(os.fsencode(folder))
    if not has_cpu():
        raise search_paths.failed(
            [(path.parent, "no CPU backend in this folder runs on this CPU")], search_paths.advice(source)
        )
    lib.llama_backend_init()


__all__ = [
    "BINDING_VAR",
    "ENV_VAR",
    "LibraryInfo",
    "choice",
    "helpers_kind",
    "info",
    "load",
    "opened_file",
    "use_library",
]
