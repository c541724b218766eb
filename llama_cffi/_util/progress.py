"""The progress of a long call: a callback of the caller, or, if requested, a bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

Progress = bool | Callable[[float], object]
"""What ``progress=`` takes: True for a bar on standard error, or what receives the part that is done, 0.0 to 1.0, and
ends the call with what it raises."""

_PATIENCE = 0.5
"""Seconds of work after which the bar appears."""
_WIDTH = 30


class Bar:
    """A progress callback that rewrites one line of standard error; ``with`` takes the line away again."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = time.monotonic()
        self._shown = -1
        self._wanted = sys.stderr.isatty()

    def __call__(self, fraction: float) -> bool:
        percent = int(fraction * 100)
        if self._wanted and percent != self._shown and time.monotonic() - self._start > _PATIENCE:
            self._shown = percent
            bar = "#" * (percent * _WIDTH // 100)
            sys.stderr.write(f"\r{self._label} [{bar:{_WIDTH}}] {percent:3} %")
            sys.stderr.flush()
        return True

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def reporting(progress: Progress | None, label: str) -> Iterator[Callable[[float], object] | None]:
    """Yield what to call with the part that is done, 0.0 to 1.0: the callback, a bar for True, None for nothing.

    Raises TypeError for anything else.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with Bar(label) as bar:
            yield bar
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be True or callable, not {type(progress).__name__}")


__all__ = ["Bar", "Progress", "reporting"]
