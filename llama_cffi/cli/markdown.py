"""Markdown on a terminal while it is being written: finished blocks stay, the last one is drawn again."""

from __future__ import annotations

import re
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from llama_cffi.cli.console import printable

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class MarkdownStream:
    """Shows a growing text as Markdown.

    A block that is complete is printed once and scrolls away like any text; only the block that still grows is redrawn,
    and of that no more lines than the terminal has. So a long answer neither flickers nor repeats itself.
    """

    def __init__(self, terminal: Console) -> None:
        self._terminal = terminal
        self._pending = ""
        self._live = Live(console=terminal, auto_refresh=False, transient=True)

    def __enter__(self) -> MarkdownStream:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""), refresh=True)
        self._live.stop()
        if self._pending.strip():
            self._terminal.print(_shown(self._pending))
        self._pending = ""

    def write(self, text: str) -> None:
        """Add text."""
        self._pending += printable(text)
        end = finished_blocks(self._pending)
        if end:
            self._live.update(Text(""), refresh=True)
            self._live.console.print(_shown(self._pending[:end]))
            self._pending = self._pending[end:]
        self._live.update(self._tail(), refresh=True)

    def _tail(self) -> Markdown | Text:
        lines = self._pending.splitlines()
        room = max(1, self._terminal.height - 2)
        if len(lines) <= room // 2:
            return _shown(self._pending)
        return Text("\n".join(lines[-room:]), overflow="ellipsis", no_wrap=True)


def _shown(text: str) -> Markdown:
    return Markdown(text.strip("\n"))


def finished_blocks(text: str) -> int:
    """Length of the beginning of ``text`` that no more text can change: up to the last blank line outside of code.

    A list may go on after a blank line and would be numbered anew, so that it counts as one block with what follows it.
    """
    end = place = 0
    fence: str | None = None
    in_list = False
    for line in text.splitlines(keepends=True):
        place += len(line)
        found = _FENCE.match(line)
        if fence is not None:
            if found and found[1].startswith(fence) and not line[found.end() :].strip():
                fence = None
            continue
        if found:
            fence = found[1]
        elif not line.strip() and line.endswith("\n"):
            if not in_list:
                end = place
        elif re.match(r" {0,3}([-*+]|\d{1,9}[.)])\s", line):
            in_list = True
        elif not line[0].isspace():
            # A line at the margin after a blank one ends a list.
            if in_list and text[: place - len(line)].endswith("\n\n"):
                end = place - len(line)
            in_list = False
    return end


__all__ = ["MarkdownStream", "finished_blocks"]
