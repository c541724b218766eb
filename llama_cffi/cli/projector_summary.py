"""A summary of a projector, for ``llama-cffi info``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cffi.cli import console
from llama_cffi.errors import LlamaCffiError

if TYPE_CHECKING:
    from llama_cffi.core.gguf import GGUFFile

PROJECTOR = "clip"
"""The architecture of a projector's file."""


@dataclass(frozen=True)
class ProjectorSummary:
    """What a projector takes, and what it takes of memory; None where the file or libmtmd says nothing."""

    vision: str | None
    """The kind of the projector for images."""
    audio: str | None
    """The kind of the projector for sound."""
    image_size: int | None
    patch_size: int | None
    memory: dict[str, int] | None
    """Bytes by device, those for computing included."""

    def rows(self) -> list[tuple[str, str]]:
        """Labels and values."""
        kinds = [f"{what} ({kind})" for what, kind in (("images", self.vision), ("sound", self.audio)) if kind]
        found = [("takes", ", ".join(kinds))] if kinds else []
        if self.image_size and self.patch_size:
            found.append(("images", f"{self.image_size} pixels wide, in patches of {self.patch_size}"))
        if self.memory is not None:
            sizes = (f"{console.size_text(size)} on {name}" for name, size in self.memory.items())
            found.append(("memory", f"{', '.join(sizes)}, with the buffers for computing"))
        return [(label, console.one_line(text, 200)) for label, text in found]


def summarise_projector(file: GGUFFile, path: Path) -> ProjectorSummary:
    """Return what the metadata and libmtmd say of a projector."""
    metadata = file.metadata

    def kind(part: str) -> str | None:
        if metadata.get(f"clip.has_{part}_encoder") is not True:
            return None
        return str(metadata.get(f"clip.{part}.projector_type") or metadata.get("clip.projector_type") or "unknown")

    def number(key: str) -> int | None:
        value = metadata.get(f"clip.vision.{key}")
        return value if isinstance(value, int) else None

    return ProjectorSummary(kind("vision"), kind("audio"), number("image_size"), number("patch_size"), _memory(path))


def _memory(path: Path) -> dict[str, int] | None:
    from llama_cffi.core.media.projector_memory import estimate_projector

    try:
        return {device.name: device.total for device in estimate_projector(path).devices}
    except LlamaCffiError:
        return None


__all__ = ["PROJECTOR", "ProjectorSummary", "summarise_projector"]
