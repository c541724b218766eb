"""What was found out once, kept in the user's cache folder: what libraries were found to be, and derived generations.

Nothing here is needed: a folder that cannot be read or written only costs the time of finding out again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def folder() -> Path:
    """llama_cffi's folder among the user's caches; it may not exist. Moved by XDG_CACHE_HOME."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():
        return Path(given, "llama_cffi")
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches/llama_cffi"))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or os.path.expanduser("~/AppData/Local"), "llama_cffi", "Cache")
    return Path(os.path.expanduser("~/.cache/llama_cffi"))


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object that was kept; None where there is none, or one that is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, data: dict[str, Any]) -> None:
    """Keep a JSON object: whole or not at all, also when several processes do so at once."""
    import tempfile

    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(data, file)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise


__all__ = ["folder", "read", "write"]
