"""The places where a libllama is searched, in their order."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_cffi._native import companions
from llama_cffi.errors import LibraryError

ENV_VAR = "LLAMA_CFFI_LIB"

Source = Literal["explicit", "bundled", "build tree", "system"]

_HERE = Path(__file__).resolve().parent
BUNDLED = _HERE / "lib"
BUILD_TREE = _HERE.parents[1] / "build" / "libllama" / "lib"
BUILD_COMMAND = "python scripts/build_libllama.py"

_STANDARD = ("/usr/local/lib", "/usr/lib", "/usr/lib64", "/lib")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place that was looked at: ``path`` is the library found there, or None for a ``reason``.

    ``final`` says that the search ends here all the same: falling back on another place would hide a mistake.
    """

    source: Source
    place: Path
    path: Path | None
    reason: str = ""
    final: bool = False


def candidates(explicit: Path | None = None) -> Iterator[Candidate]:
    """Look at every place: an explicit choice is the only one, given here or in LLAMA_CFFI_LIB (a file or a folder)."""
    value = os.environ.get(ENV_VAR)
    if explicit is not None or value:
        yield _explicit(Path(explicit or value or "").absolute(), "" if explicit is not None else f" (from {ENV_VAR})")
        return
    own: tuple[tuple[Source, Path], ...] = (("bundled", BUNDLED), ("build tree", BUILD_TREE))
    for source, directory in own:
        yield _look(source, directory, final=directory.is_dir())
    for directory in _system_folders():
        yield _look("system", directory)


def choose(explicit: Path | None = None) -> tuple[Path, Source]:
    """Return the library of the first place that holds one; LibraryError with every place tried and the ways to get
    one."""
    tried: list[tuple[Path, str]] = []
    for one in candidates(explicit):
        if one.path is not None:
            return one.path, one.source
        tried.append((one.place, one.reason))
        if one.final:
            raise failed(tried, advice(one.source))
    raise failed(tried, advice("system"))


def _explicit(place: Path, origin: str) -> Candidate:
    if place.is_file():
        return Candidate("explicit", place, place)
    if not place.is_dir():
        return Candidate("explicit", place, None, f"no such file or folder{origin}", final=True)
    found = _look("explicit", place, final=True)
    return found if found.path else Candidate("explicit", place, None, f"{found.reason}{origin}", final=True)


def _look(source: Source, directory: Path, *, final: bool = False) -> Candidate:
    origin = "" if source == "explicit" else f" ({source})"
    try:
        if not directory.is_dir():
            return Candidate(source, directory, None, f"no such folder{origin}")
        found = companions.find(directory)
    except (LibraryError, OSError) as error:
        # Something is there and cannot be told: going on would choose for the user.
        return Candidate(source, directory, None, f"{error}{origin}", final=True)
    if found is None:
        return Candidate(source, directory, None, f"no libllama in this folder{origin}", final=final)
    return Candidate(source, directory, found)


def _system_folders() -> Iterator[Path]:
    """Folders of the loader's search path, of conda and Homebrew, and the standard ones; each once."""
    seen: set[Path] = set()
    for text in (*_named_folders(), *_cached_folders(), *_STANDARD):
        path = Path(text)
        if path.is_absolute() and (path.is_dir() or text in _STANDARD) and (real := path.resolve()) not in seen:
            seen.add(real)
            yield path


def _named_folders() -> Iterator[str]:
    variable = {"darwin": "DYLD_LIBRARY_PATH", "win32": "PATH"}.get(sys.platform, "LD_LIBRARY_PATH")
    yield from os.environ.get(variable, "").split(os.pathsep)
    for prefix in (os.environ.get("CONDA_PREFIX"), sys.prefix, os.environ.get("HOMEBREW_PREFIX")):
        if prefix:
            yield f"{prefix}/lib"
    yield "/opt/homebrew/lib" if sys.platform == "darwin" else "/home/linuxbrew/.linuxbrew/lib"


def _cached_folders() -> list[str]:
    """Where the loader's cache knows a libllama."""
    if sys.platform != "linux":
        return []
    import subprocess

    for tool in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            listed = subprocess.run([tool, "-p"], capture_output=True, text=True, errors="replace", timeout=5).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        return [os.path.dirname(path) for path in re.findall(r"^\s*libllama\.\S* .*=> (\S+)$", listed, re.M)]
    return []


def advice(source: Source) -> str:
    """Return the advice for a place whose library cannot be used."""
    if source == "explicit":
        return (
            f"{ENV_VAR} and use_library() take a libllama file or the folder that holds it; without them the library "
            "is used that came with llama-cffi"
        )
    if source == "bundled":
        return "the installation is damaged: reinstall llama-cffi"
    if source == "build tree":
        return f"run `{BUILD_COMMAND}` in the checkout, then reinstall llama-cffi"
    return (
        "There are three ways to get one:\n"
        "  `pip install llama-cffi` with a C++ compiler installed, which builds it\n"
        f"  {ENV_VAR}=/path/to/libllama.so, or llama_cffi.use_library(path), for an existing one\n"
        f"  `{BUILD_COMMAND}` in a checkout of llama-cffi"
    )


def failed(tried: list[tuple[Path, str]], help_text: str) -> LibraryError:
    """Return the error that lists the places and their reasons."""
    lines = "".join(f"\n  {path}: {reason}" for path, reason in tried)
    return LibraryError(f"no usable libllama:{lines}\n{help_text}")


__all__ = ["BUILD_TREE", "BUNDLED", "ENV_VAR", "Candidate", "Source", "advice", "candidates", "choose", "failed"]
