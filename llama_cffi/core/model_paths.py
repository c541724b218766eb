"""The files of a model, by what a caller names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from llama_cffi._util.shown import shown
from llama_cffi.core.archive import ArchiveMember
from llama_cffi.errors import ModelFileError

ModelGiven = str | os.PathLike[str] | ArchiveMember | BinaryIO | bytes
"""What one file of a model may be given as: a path, an address, a member of an archive, an open file, bytes."""


def all_paths(path: object) -> list[Path]:
    """Return the paths that a model is given by. Raises ``TypeError``, and :class:`ModelFileError` for none."""
    parts: Sequence[Any] = path if isinstance(path, Sequence) and not isinstance(path, (str, bytes)) else [path]
    for part in parts:
        if not isinstance(part, (str, os.PathLike)) or isinstance(os.fspath(part), bytes):
            raise TypeError(f"a model must be the path of a GGUF file, or the list of its parts, got {shown(path)}")
        if not os.fspath(part):
            raise ModelFileError("the path of the model is empty")
    if not parts:
        raise ModelFileError("no model file was given: the list of parts is empty")
    return [Path(part) for part in parts]


def all_parts(path: object) -> list[Path]:
    """Return the files of a model that is given by its first, or by all of them."""
    paths = all_paths(path)
    return paths if len(paths) > 1 else _parts(paths[0])


def _parts(path: Path) -> list[Path]:
    """The files of a model that llama.cpp finds by the name of the first."""
    match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
    if match is None:
        return [path]
    return [path.with_name(f"{match[1]}-{i:05}-of-{match[2]}.gguf") for i in range(1, int(match[2]) + 1)]


__all__ = ["ModelGiven", "all_parts", "all_paths"]
