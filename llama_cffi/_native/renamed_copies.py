"""Copies of a library with other names, for a process that has another llama.cpp with the same names.

The loader of Linux knows a dependency by its name alone: a second libllama gets the libggml-base.so of the first,
whatever its path. Copies in the user's cache whose names inside the files are changed, byte for byte, are told apart.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from llama_cffi._native import cache, companions, elf
from llama_cffi._util.files import identity
from llama_cffi.errors import LibraryError

_NAME = re.compile(r"lib(llam|ggml|mtmd)")
_MAPPED = re.compile(r" (/\S*/lib(?:llama|ggml|mtmd)[^/\n]*)$", re.M)


def clashes(library: Path) -> dict[str, Path]:
    """Return names of ``library`` and its companions that this process has mapped already: {name: file}.

    The very same file counts: what other code has opened has that code's log, abort callback and backends.
    """
    if sys.platform != "linux":
        return {}
    mapped = {Path(path) for path in _MAPPED.findall(Path("/proc/self/maps").read_text(errors="surrogateescape"))}
    others: dict[str, Path] = {}
    if not mapped:
        return others
    for path in mapped:
        try:
            others[elf.read(path).soname] = path
        except (OSError, elf.ElfError):
            continue  # removed since
    mine = [elf.read(path).soname for path in (*companions.before(library), library)]
    return {name: others[name] for name in mine if name in others}


def copies(library: Path) -> list[Path]:
    """Copies of what is opened for ``library``, in order, beside copies of its plug-ins; no other file has their names.

    They are kept in the user's cache, or LibraryError says why they cannot be.
    """
    import hashlib
    import tempfile

    opened = [*companions.before(library), library]
    # Opened later, if at all; its name must fit the others'.
    media = companions.find_media(library.parent)
    later = [*companions.plugins(library.parent), *([media] if media is not None else [])]
    parts = list(dict.fromkeys((*opened, *later)))
    digest = hashlib.sha256()
    for path in parts:
        digest.update(f"{path}\0{identity(path)}\0".encode("utf-8", "surrogateescape"))
    token = digest.hexdigest()[:12]
    folder = cache.folder() / "private" / token
    if not folder.is_dir():
        try:
            cache.make_folder(folder.parent)
            with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
                _write(parts, token[:4], Path(fresh, "lib"))
                if not folder.is_dir():
                    os.replace(Path(fresh, "lib"), folder)
        except OSError as error:
            raise LibraryError(
                f"{library} has the names of another llama.cpp in this process, and a renamed copy cannot be kept in "
                f"{folder.parent}: {error.strerror or error}"
            ) from error
    found = [folder / path.name for path in parts]
    if reason := next(filter(None, map(cache.distrust, found)), None):
        raise LibraryError(f"the renamed copy of {library} cannot be trusted: {reason}; remove {folder}")
    return found[: len(opened)]


def _write(parts: list[Path], token: str, folder: Path) -> None:
    import shutil

    folder.mkdir(mode=0o700)
    known = {path: elf.read(path) for path in parts}
    ours = {one.soname for one in known.values() if _NAME.match(one.soname)}
    for path, facts in known.items():
        target = folder / path.name
        shutil.copyfile(path, target)
        target.chmod(0o600)
        with target.open("r+b") as file:
            for name, place in facts.places.items():
                if name in ours:
                    file.seek(place + len("lib"))
                    file.write(token.encode())


__all__ = ["clashes", "copies"]
