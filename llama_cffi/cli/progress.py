"""A bar for work that takes longer than a moment, on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType

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
            print(f"\r{self._label} [{bar:{_WIDTH}}] {percent:3} %", end="", file=sys.stderr, flush=True)
        return True

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown >= 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
