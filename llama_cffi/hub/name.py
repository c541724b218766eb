"""Names of models on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llama_cffi._util.arguments import check_text
from llama_cffi.errors import HubNameError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<quantization>[A-Za-z0-9_.-]+)|/(?P<file>.+))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, and which model in it: by quantization, by file, or whichever is the natural one.

    ``repo`` is ``owner/repo``; ``quantization`` such as ``Q4_K_M`` is looked for in the file names, in any case;
    ``file`` is a path in the repository, for a split model that of any part.
    """

    repo: str
    quantization: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read ``owner/repo``, ``owner/repo:Q4_K_M`` or ``owner/repo/path/file.gguf``. Raises HubNameError."""
        found = _NAME.fullmatch(check_text("name", text))
        if found is None:
            raise HubNameError(
                f"{text!r} is not the name of a model on the hub: "
                "names look like owner/repo, owner/repo:Q4_K_M or owner/repo/path/file.gguf"
            )
        file = found["file"]
        if file is not None and (not file.lower().endswith(".gguf") or not _stays_inside(file)):
            raise HubNameError(f"{text!r} names {file!r}, which is not the path of a GGUF file in a repository")
        return cls(found["repo"], found["quantization"], file)

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.repo}/{self.file}"
        return self.repo if self.quantization is None else f"{self.repo}:{self.quantization}"


def _stays_inside(path: str) -> bool:
    return "\\" not in path and path.isprintable() and all(part not in ("", ".", "..") for part in path.split("/"))


__all__ = ["HubName"]
