"""Shared libraries that lie: compiled in a test, with what a libllama shows or without."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from llama_cffi._native import abi

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

PINNED = abi.generations()[-1]


def images_of(generation: abi.Generation) -> dict[str, bytes]:
    """What the default-params functions of a generation return, with zeros between the fields."""
    return {
        name: bytes.fromhex(images[-1].replace("..", "00").replace("??", "00"))
        for name, images in generation.images.items()
    }


def compile_library(path: Path, source: str) -> Path:
    """Compile C into a shared library at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-shared", "-fPIC", "-w", "-O0", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return path


def libllama(
    path: Path,
    images: Mapping[str, bytes] | None = None,
    *,
    symbols: frozenset[str] = PINNED.always,
    extra: str = "",
) -> Path:
    """A library that shows the pinned generation's defaults, or other ones, and does nothing else.

    ``extra`` is more C code, such as a constructor.
    """
    parts = [extra]
    for name, data in (images_of(PINNED) if images is None else images).items():
        values = ", ".join(map(str, data))
        parts.append(f"struct {name} {{ unsigned char bytes[{len(data)}]; }};")
        parts.append(f"struct {name} {name}(void) {{ struct {name} made = {{{{{values}}}}}; return made; }}")
    parts += [f"void {name}(void) {{}}" for name in sorted(symbols)]
    return compile_library(path, "\n".join(parts))
