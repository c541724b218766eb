"""Finding libllama, loading it once, and refusing one that does not fit."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama_cffi._native.binding import ApiBinding, Binding, Mode
from llama_cffi.errors import LibraryError

ENV_VAR = "LLAMA_CFFI_LIB"

_HERE = Path(__file__).resolve().parent
_BUNDLED = _HERE / "lib"
_BUILD_TREE = _HERE.parents[1] / "build" / "libllama" / "lib"
_BUILD_COMMAND = "python scripts/build_libllama.py"

Source = Literal["explicit", "bundled", "build tree"]


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """Which libllama this process uses and what is known about it.

    ``source`` says which of the three places it was taken from, ``mode`` how it is bound, ``stamp`` is what
    its build wrote down (commit, flags, compiler, header hash).
    """

    path: Path
    directory: Path
    source: Source
    mode: Mode
    version: str
    commit: str
    stamp: dict[str, Any]


_lock = threading.RLock()
_binding: Binding | None = None
_info: LibraryInfo | None = None
_failure: LibraryError | None = None
# A library object closes its library when it is collected, and these must never be closed.
_opened: list[Any] = []


def load() -> Binding:
    """Return the binding to a checked libllama.

    Looks at exactly one place: ``LLAMA_CFFI_LIB`` (a file or a folder) if it is set, else the libraries
    bundled with the package, else the checkout's build tree. Raises LibraryError with every path tried and
    the reason; a failure is final for the process, because what is mapped cannot be unmapped safely.
    """
    global _binding, _info, _failure
    with _lock:
        if _failure is not None:
            raise _failure.with_traceback(None)
        if _binding is None:
            try:
                binding, info = _load()
            except LibraryError as error:
                _failure = error
                raise
            _binding, _info = binding, info
        return _binding


def info() -> LibraryInfo:
    """Return what :func:`load` bound, loading it if need be."""
    load()
    if _info is None:
        raise LibraryError("libllama is still being loaded by this thread")
    return _info


def _load() -> tuple[Binding, LibraryInfo]:
    path, source = _choose()
    stamp = _read_stamp(path.parent, source)
    _open_all(path, source)
    module = _import_extension("_llama", source)
    _import_extension("_helpers", source)
    _verify(module, path, source, stamp)
    _initialise(module, path, source)
    version = module.ffi.string(module.lib.llama_version()).decode()
    return ApiBinding(module), LibraryInfo(
        path, path.parent, source, "api", version, str(stamp.get("commit", "")), stamp
    )


def _choose() -> tuple[Path, Source]:
    explicit = os.environ.get(ENV_VAR)
    if explicit:
        path = Path(explicit).absolute()
        found = path if path.is_file() else _find(path, "llama")
        if found is None:
            reason = "no libllama in this folder" if path.is_dir() else "no such file or folder"
            raise _failed([(path, f"{reason} (from {ENV_VAR})")], _advice("explicit"))
        return found, "explicit"
    tried = []
    places: tuple[tuple[Source, Path], ...] = (("bundled", _BUNDLED), ("build tree", _BUILD_TREE))
    for source, directory in places:
        if not directory.is_dir():
            tried.append((directory, f"no such folder ({source})"))
            continue
        found = _find(directory, "llama")
        if found is not None:
            return found, source
        tried.append((directory, f"no libllama in this folder ({source})"))
        break
    raise _failed(tried, _advice(source))


def _find(directory: Path, stem: str) -> Path | None:
    """Return the library's file in ``directory``; wheels carry no links, so a versioned name will do."""
    if sys.platform == "darwin":
        plain, versioned = f"lib{stem}.dylib", f"lib{stem}.*.dylib"
    else:
        plain, versioned = f"lib{stem}.so", f"lib{stem}.so.*"
    if (directory / plain).is_file():
        return directory / plain
    return min(directory.glob(versioned), key=lambda path: (len(path.name), path.name), default=None)


def _read_stamp(directory: Path, source: Source) -> dict[str, Any]:
    tried = []
    for path in (directory / "stamp.json", directory.parent / "stamp.json"):
        try:
            stamp = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            tried.append((path, "no such file; without it nothing says which headers the library belongs to"))
        except (OSError, ValueError) as error:
            raise _failed([(path, f"not a readable stamp: {error}")], _advice(source)) from error
        else:
            if not isinstance(stamp, dict):
                raise _failed([(path, "not a stamp: the JSON is no object")], _advice(source))
            return stamp
    raise _failed(tried, _advice(source))


def _open_all(path: Path, source: Source) -> None:
    """Map the libraries by absolute path, dependencies first: what is mapped wins over any search path."""
    import _cffi_backend

    directory = path.parent
    opener = _cffi_backend.FFI()
    flags = os.RTLD_NOW | os.RTLD_LOCAL
    backends = []
    if not _is_plugin_build(directory):
        names = {file.name.split(".")[0].removeprefix("lib") for file in directory.glob("libggml-*")}
        backends = sorted(names - {"ggml-base"})
    for stem in ("ggml-base", *backends, "ggml"):
        found = _find(directory, stem)
        if found is None:
            raise _failed([(directory, f"no lib{stem} beside {path.name}")], _advice(source))
        _open(opener, found, flags, source)
    _open(opener, path, flags, source)


def _open(opener: Any, path: Path, flags: int, source: Source) -> None:
    try:
        _opened.append(opener.dlopen(str(path), flags))
    except OSError as error:
        raise _failed([(path, str(error))], _advice(source)) from error


def _import_extension(name: str, source: Source) -> Any:
    try:
        return importlib.import_module(f"llama_cffi._native.{name}")
    except ImportError as error:
        raise _failed([(_HERE / f"{name}.abi3.so", str(error))], _advice(source)) from error


def _is_plugin_build(directory: Path) -> bool:
    # With GGML_BACKEND_DL the CPU backends carry a suffix; mapping one that is for another CPU may trap.
    return any(True for _ in directory.glob("libggml-cpu-*"))


def _verify(module: Any, path: Path, source: Source, stamp: dict[str, Any]) -> None:
    ffi, lib = module.ffi, module.lib
    address = lib.llama_cffi_library_path()
    actual = Path(os.fsdecode(ffi.string(address))) if address else None
    if actual is None or not actual.exists() or not actual.samefile(path):
        raise _failed([(path, f"the extension was bound to {actual} instead")], _advice(source))
    compiled = ffi.string(lib.LLAMA_CFFI_VERSION).decode()
    version = ffi.string(lib.llama_version()).decode()
    if version != compiled:
        reason = f"is llama.cpp {version}, but this build of llama_cffi needs {compiled}"
        raise _failed([(path, reason)], _advice(source))
    expected = ffi.string(lib.LLAMA_CFFI_HEADER_HASH).decode()
    actual_hash = stamp.get("header_hash")
    if actual_hash != expected:
        reason = f"belongs to headers with hash {actual_hash}, but this build of llama_cffi needs {expected}"
        raise _failed([(path, reason)], _advice(source))


def _initialise(module: Any, path: Path, source: Source) -> None:
    from llama_cffi._native import guard, log

    ffi, lib = module.ffi, module.lib
    log.install(ffi, lib)
    guard.install(ffi, lib)
    if lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU) == ffi.NULL:
        lib.ggml_backend_load_all_from_path(os.fsencode(path.parent))
        if lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU) == ffi.NULL:
            raise _failed([(path.parent, "no CPU backend in this folder runs on this CPU")], _advice(source))
    lib.llama_backend_init()


def _advice(source: Source) -> str:
    if source == "explicit":
        return (
            f"{ENV_VAR} must name the lib folder of what `{_BUILD_COMMAND} --prefix DIR` installs, of the same "
            "llama.cpp release that llama_cffi was compiled against; unset it to use the bundled library"
        )
    if source == "bundled":
        return "the installation is damaged: reinstall llama-cffi"
    return f"run `{_BUILD_COMMAND}` in the checkout, then reinstall llama-cffi"


def _failed(tried: Iterable[tuple[Path, str]], advice: str) -> LibraryError:
    lines = "".join(f"\n  {path}: {reason}" for path, reason in tried)
    return LibraryError(f"cannot use libllama:{lines}\n{advice}")
