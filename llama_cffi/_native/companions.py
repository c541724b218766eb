"""The files of a libllama: the library itself in a folder, and the libraries that must be mapped before it.

Whatever lies beside a library is found here and mapped by its path, dependencies first, so that neither
LD_LIBRARY_PATH nor a run path is needed. CPU and GPU backends that are plug-ins are not among them: mapping one
that is made for another CPU may end the process, so llama.cpp chooses among these itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llama_cffi._native import elf
from llama_cffi.errors import LibraryError

_OURS = re.compile(r"(lib)?(llama|ggml|mtmd)")
"""Which dependencies are taken from beside the library; all else is the system's business."""


def find(directory: Path, stem: str = "llama") -> Path | None:
    """Return the library ``lib<stem>`` of a folder, also under a name such as ``libllama.b8390.so`` or
    ``libllama.so.0``.

    None when there is none; LibraryError when there are several of different builds.
    """
    if sys.platform == "win32":
        plain, pattern = f"{stem}.dll", rf"(lib)?{stem}\.dll"
    elif sys.platform == "darwin":
        plain, pattern = f"lib{stem}.dylib", rf"lib{stem}(\.[\w.]+)?\.dylib"
    else:
        plain, pattern = f"lib{stem}.so", rf"lib{stem}(\.[\w.]+)?\.so(\.[\d.]+)?"
    if (directory / plain).is_file():
        return directory / plain
    found = [path for path in directory.glob(f"*{stem}*") if re.fullmatch(pattern, path.name) and path.is_file()]
    builds = {re.split(r"\.so\b", path.name)[0] for path in found} if sys.platform == "linux" else set()
    if len(builds) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise LibraryError(f"{directory} holds several builds of lib{stem}: {names}; name one of the files")
    # Wheels carry no links, so a versioned name will do.
    return min(found, key=lambda path: (len(path.name), path.name), default=None)


def find_media(directory: Path) -> Path | None:
    """Return the libmtmd of a folder, or None: also when there are several, which say nothing about which is meant."""
    try:
        return find(directory, "mtmd")
    except LibraryError:
        return None


def before(library: Path) -> list[Path]:
    """Return what has to be mapped before ``library``, in that order, as far as it lies beside it."""
    if sys.platform != "linux":
        return _by_name(library.parent)
    order: dict[Path, None] = {}
    _needed(library, order, set())
    return list(order)


def plugins(directory: Path) -> list[Path]:
    """Backends that llama.cpp may load by itself: beside the library, or in a folder ``ggml*`` of a distribution."""
    found = [*directory.glob("*ggml-*.so"), *directory.glob("ggml*/**/*ggml-*.so")]
    return sorted(path for path in found if path.is_file())


def is_plugin_build(directory: Path) -> bool:
    """Return whether CPU backends are plug-ins here (``GGML_BACKEND_DL``): these carry a suffix."""
    return any(True for _ in directory.glob("*ggml-cpu-*"))


def _needed(library: Path, order: dict[Path, None], seen: set[str]) -> None:
    for name in elf.read(library).needed:
        if not _OURS.match(name) or name in seen:
            continue
        seen.add(name)
        # What does not lie here may still be found by the loader; if it is not, dlopen names it.
        if (path := _beside(library.parent, name)) is not None:
            _needed(path, order, seen)
            order[path] = None


def _beside(directory: Path, name: str) -> Path | None:
    """The file of a folder that answers to the name under which another library asks for it."""
    if (directory / name).is_file():
        return directory / name
    stem = re.split(r"\.so\b", name)[0]
    for path in sorted(directory.glob(f"{stem}*.so*")):
        try:
            if elf.read(path).soname == name:
                return path
        except (elf.ElfError, OSError):
            continue
    return None


def _by_name(directory: Path) -> list[Path]:
    """The order that llama.cpp's own builds have, where files are not read."""
    stems = ["ggml-base"]
    if not is_plugin_build(directory):
        names = {file.name.split(".")[0].removeprefix("lib") for file in directory.glob("*ggml-*")}
        stems += sorted(names - {"ggml-base"})
    found = (find(directory, stem) for stem in (*stems, "ggml"))
    return [path for path in found if path is not None]


__all__ = ["before", "find", "find_media", "is_plugin_build", "plugins"]
