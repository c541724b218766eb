"""Files that no folder shows: in memory where the system has that, else temporary files."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import Any

from llama_cffi._util.fork import fork_safe

_BLOCK = 1 << 26
"""Bytes of one write: Linux writes at most 2 GiB at once."""


def descriptor_path(descriptor: int) -> str | None:
    """Return a path that opens the file of a descriptor anew, from its beginning; None where the system has none."""
    path = f"/proc/self/fd/{descriptor}"
    # /dev/fd of other systems gives the same open file again, whose position all share.
    return path if sys.platform == "linux" and os.path.exists(path) else None


def has_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is one of a file in a folder, and not of a descriptor."""
    return not os.fspath(path).startswith("/proc/self/fd/")


class MemoryFile:
    """A new, empty file: ``descriptor`` writes it, and ``path`` opens it as long as it is not closed."""

    def __init__(self) -> None:
        self.descriptor, self.path = _create()
        self._finalizer = weakref.finalize(self, _close, self.descriptor, self.path, os.getpid())

    def write(self, data: Any) -> None:
        """Append bytes. Raises ``OSError``."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest[:_BLOCK]) :]

    def extend(self, size: int) -> None:
        """Let the file have this size; what was not written reads as zeros and takes no memory. Raises ``OSError``."""
        os.ftruncate(self.descriptor, size)

    def seal(self) -> None:
        """Let nothing change the content any more, where the system can do that."""
        import fcntl

        with suppress(AttributeError, OSError):
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def close(self) -> None:
        """Give the file up. Idempotent."""
        self._finalizer()


def _create() -> tuple[int, str]:
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        with suppress(OSError):
            descriptor = os.memfd_create("llama_cffi", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            path = descriptor_path(descriptor)
            if path is not None:
                return descriptor, path
            os.close(descriptor)
    return tempfile.mkstemp(prefix="llama_cffi.", suffix=".gguf")


def _close(descriptor: int, path: str, owner: int) -> None:
    os.close(descriptor)
    if os.getpid() == owner and not path.startswith("/proc/"):
        with suppress(OSError):
            os.unlink(path)


class Shared:
    """What several owners hold together: closed with the last of them."""

    def __init__(self, *things: Any) -> None:
        self._things = things
        self._lock = fork_safe(threading.RLock())
        self._owners = 0

    def hold(self, owner: object) -> weakref.finalize[Any, Any]:
        """Return what ends the part of an owner when it is called, or when the owner is collected."""
        with self._lock:
            self._owners += 1
        return weakref.finalize(owner, self._release)

    def _release(self) -> None:
        with self._lock:
            self._owners -= 1
            last = not self._owners
        for thing in self._things if last else ():
            thing.close()


__all__ = ["MemoryFile", "Shared", "descriptor_path", "has_folder"]
