"""Where this package keeps what it can find again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def folder() -> Path:
    """Return llama_cffi's folder among the user's caches; it may not exist. Moved by XDG_CACHE_HOME."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():
        return Path(given, "llama_cffi")
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches/llama_cffi"))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or os.path.expanduser("~/AppData/Local"), "llama_cffi", "Cache")
    return Path(os.path.expanduser("~/.cache/llama_cffi"))


__all__ = ["folder"]
