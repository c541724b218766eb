"""Results that are kept in the user's cache folder: the fingerprints of libraries, and derived generations.

Nothing here is needed: a folder that cannot be read or written only costs the time of finding out again. Nothing here
is believed that another user could have written: how a library is called depends on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from llama_cffi._util.cache_folder import folder


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object that was kept; None where there is none, a damaged one, or one that others may have written.

    See :func:`distrust`.
    """
    try:
        # Not waiting for the other end of a pipe.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), encoding="utf-8") as file:
            if distrust(path, os.fstat(file.fileno())) is not None:
                return None
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, data: dict[str, Any]) -> None:
    """Keep a JSON object: whole or not at all, also when several processes do so at once."""
    import tempfile

    with contextlib.suppress(OSError):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(data, file)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise


def make_folder(path: Path) -> None:
    """Make a folder of the cache, with those above it, that only this user can write to. Raises OSError.

    Folders of the cache that others can write to, made by a program with another umask, are closed to them.
    """
    missing = []
    at = path
    while not at.exists():
        missing.append(at)
        at = at.parent
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=0o700)
    if os.name == "posix":
        top = folder()
        for one in (path, *path.parents):
            if one != top and top not in one.parents:
                break
            status = one.stat()
            if status.st_uid == os.geteuid() and status.st_mode & 0o022:
                one.chmod(stat.S_IMODE(status.st_mode) & ~0o022)


def distrust(path: Path, status: os.stat_result | None = None) -> str | None:
    """Return why another user may have written a file or folder, or None where only this one and root can have.

    ``status`` is that of the open file. All folders above count: a user with write access to one of them can exchange
    what is below. Those with the sticky bit, as /tmp, are fine, and so are those of the user's own group.
    """
    if os.name != "posix":
        return None  # a user's folders are closed to others, and modes do not tell
    users = (0, os.geteuid())
    status = status if status is not None else path.stat()
    if status.st_uid not in users:
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & 0o022:
        return f"{path} can be written by other users"
    for above in Path(os.path.realpath(path)).parents:
        status = above.stat()
        if status.st_uid not in users:
            return f"{above} belongs to user {status.st_uid}"
        if status.st_mode & stat.S_ISVTX:
            continue
        if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid)):
            return f"{above} can be written by other users"
    return None


def _is_own_group(group: int) -> bool:
    """Whether a group is the one that a user has alone, named like the user."""
    import grp
    import pwd

    try:
        return group == 0 or grp.getgrgid(group).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


__all__ = ["distrust", "folder", "make_folder", "read", "write"]
