"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"
"""How the name of a file ends that is still being written, or was when its process ended."""


@contextmanager
def replacement(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Yield the path of an empty file in the same folder, which takes the place of ``path`` when the block ends.

    When the block raises, the new file goes and what was at ``path`` is still there. ``sync`` waits until the bytes are
    on the disk, so that not even a power cut leaves a file without its content. Raises ``OSError``.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:48]}.", suffix=PART, dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        if sync:
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


__all__ = ["PART", "replacement"]
