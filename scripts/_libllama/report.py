"""What the build says to people: one line of progress, and one error with the command that mends it."""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path


class BuildError(Exception):
    """A build step that failed for a reason the user can act on.

    `mend` is the command (or the sentence) that mends it; `detail` is what the failing tool said.
    """

    def __init__(self, reason: str, mend: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.mend = mend
        self.detail = detail

    def __str__(self) -> str:
        detail = "".join(f"  | {line}\n" for line in self.detail.splitlines())
        return f"error: {self.reason}\n{detail}  to mend it: {self.mend}"


def disk_full(where: Path) -> BuildError:
    """The error for a file system without room at `where`."""
    return BuildError(
        f"no space left on the disk that holds {where}",
        f"free about 500 MB there (`df -h {where}`), then run the same command again: finished work is kept",
    )


def from_os_error(error: OSError, where: Path) -> BuildError:
    """Turn an OSError of our own file work into a BuildError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(where)
    return BuildError(
        f"{error.strerror or error} ({error.filename or where})",
        f"make {error.filename or where} writable for this user, or choose another place with --prefix",
    )


def say(message: str) -> None:
    """Print one line at once: the output of a build is read while it runs."""
    print(f"libllama: {message}", flush=True)


class Progress:
    """Shows `[n/total] what` as one rewritten line on a terminal, and as a line every tenth elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._started = time.monotonic()
        self._tenth = -1
        self._open_line = False

    def step(self, done: int, total: int, what: str) -> None:
        seconds = time.monotonic() - self._started
        text = f"[{done:>{len(str(total))}}/{total}] {seconds:4.0f} s  {what}"
        if self._terminal:
            print(f"\r\x1b[2K{text[:100]}", end="", flush=True)
            self._open_line = True
        elif (tenth := 10 * done // total) > self._tenth:
            self._tenth = tenth
            print(text, flush=True)

    def close(self) -> None:
        """End the rewritten line so that what follows starts on its own."""
        if self._open_line:
            print(flush=True)
            self._open_line = False
