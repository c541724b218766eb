"""Put what was built into its prefix, all at once: libraries, headers, tools, and the stamp last."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from .report import BuildError, from_os_error
from .stamp import MEDIA_HEADERS, STAMP, header_hash, media_header_hash

_SHARED = (".so", ".dylib", ".dll")


def is_shared_library(name: str) -> bool:
    return name.endswith(_SHARED) or ".so." in name


def run_name(names: list[str]) -> str:
    """The name under which a library is loaded, of all the names one file has.

    libllama.so, libllama.so.0 and libllama.so.0.5.0 are one file; programs ask for the second (its SONAME).
    """
    ordered = sorted(names, key=len)
    return ordered[1] if len(ordered) > 1 else ordered[0]


def library_files(folder: Path) -> dict[str, list[str]]:
    """The llama.cpp libraries in `folder`: real file name -> all names it has, links included."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.name.removeprefix("lib").startswith(("llama.", "ggml", "mtmd.")) and is_shared_library(path.name):
            found[path.resolve().name].append(path.name)
    return dict(found)


def install(tree: Path, source: Path, prefix: Path, stamp: dict[str, Any]) -> None:
    """Copy libraries and headers from the build tree and the source into `prefix`, replacing it at once."""
    fresh = prefix.with_name(f".{prefix.name}.installing")
    old = prefix.with_name(f".{prefix.name}.old")
    try:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        libraries = _copy_libraries(tree, fresh / "lib")
        media = any("mtmd." in name for name in libraries)
        _copy_headers(source, fresh / "include", media)
        shutil.copy2(source / "LICENSE", fresh / "LICENSE")  # its terms: it goes where the libraries go
        stamp = {**stamp, "libraries": libraries, "header_hash": header_hash(fresh / "include")}
        if media:
            stamp["media_header_hash"] = media_header_hash(fresh / "include")
        _write_json(fresh / STAMP, stamp)
        if prefix.exists():
            prefix.rename(old)
        fresh.rename(prefix)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise from_os_error(error, prefix) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def installed_tools(prefix: Path) -> list[str]:
    """The names of the tools in a prefix; they belong to its library and leave with it."""
    folder = prefix / "bin"
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not is_shared_library(path.name) and path.suffix != ".new")
    return sorted(path.name.removesuffix(".exe") for path in files)


def install_tools(tree: Path, prefix: Path, tools: list[str]) -> None:
    """Copy built tools, and the libraries only they use, into `prefix`/bin; libllama they find in ../lib."""
    target = prefix / "bin"
    try:
        target.mkdir(exist_ok=True)
        own = set(library_files(prefix / "lib"))
        for path in sorted((tree / "bin").iterdir()):
            if path.is_symlink() or not is_shared_library(path.name):
                continue
            names = [other.name for other in path.parent.iterdir() if other.resolve() == path.resolve()]
            name = run_name(names)
            if name not in own and name.removeprefix("lib").startswith(("llama-", "mtmd", "server")):
                _copy(path, target / name)
        for tool in tools:
            built = next((p for p in ((tree / "bin" / tool), (tree / "bin" / f"{tool}.exe")) if p.is_file()), None)
            if built is None:
                raise BuildError(f"the build made no {tool}", "give the name of one of llama.cpp's tools: --tool")
            _copy(built, target / built.name)
    except OSError as error:
        raise from_os_error(error, target) from error


def _copy(source: Path, target: Path) -> None:
    """Replace `target` at once, so that a process that has the old file mapped keeps it."""
    fresh = target.with_name(target.name + ".new")
    shutil.copy2(source, fresh, follow_symlinks=True)
    os.replace(fresh, target)


def _copy_libraries(tree: Path, target: Path) -> list[str]:
    """Copy each library once, under its run name, with a plain lib*.so link for the linker beside it."""
    target.mkdir(parents=True)
    copied = []
    for real, names in library_files(tree / "bin").items():
        name = run_name(names)
        shutil.copy2(tree / "bin" / real, target / name)
        copied.append(name)
        plain = min(names, key=len)
        if plain != name:
            (target / plain).symlink_to(name)
    for path in tree.rglob("*.lib"):  # Windows: what the linker needs lies apart from the DLL
        shutil.copy2(path, target / path.name)
    if not any("llama." in name for name in copied):
        raise BuildError(f"the build made no libllama in {tree / 'bin'}", f"rm -r {tree} and run this again")
    return sorted(copied)


def _copy_headers(source: Path, target: Path, media: bool) -> None:
    target.mkdir(parents=True)
    headers = [*(source / "include").glob("*.h"), *(source / "ggml" / "include").glob("*.h")]
    if media:
        headers += [source / "tools" / "mtmd" / name for name in MEDIA_HEADERS]
    for header in headers:
        shutil.copy2(header, target / header.name)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
