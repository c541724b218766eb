"""Where a model thinks before it answers."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.input_buffer import InputBuffer
from llama_cffi.reply.lark import Lark


@dataclass(frozen=True, slots=True)
class Thinking:
    """The texts around reasoning, which stands at the beginning of a reply or nowhere."""

    start: str = "<think>"
    end: str = "</think>"
    optional: bool = True
    """Whether a reply can be held to go without: not where every part of a reply says what it is."""

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """What a prompt leaves to the reply: reasoning that is open, none because it was closed, or either."""
        shown = prompt.rstrip()
        if shown.endswith(self.start.rstrip()):
            return "open"
        return "off" if shown.endswith(self.end.rstrip()) else "auto"

    def read(self, source: InputBuffer, out: EventBuffer, open: bool) -> Generator[None, None, None]:
        """Read the reasoning, if there is any, with its tags. ``open``: it began in the prompt."""
        blank = yield from source.blank()
        found = yield from source.one_of(self.start)
        if found:
            out.tag()
        elif not open:
            out.text(blank)
            return
        else:
            out.reasoning(blank)
        if (yield from source.until((self.end,), out.reasoning)):
            out.tag()

    def rule(self, lark: Lark, open: bool) -> str:
        """The expression of the reasoning: optional unless the prompt opened it."""
        closed = lark.rule("thought", lark.up_to(self.end, "ANY"))
        lark.terminal("GAP", r"/\n{0,2}/")
        if open:
            return f"{closed} GAP"
        lark.terminal("LEAD", r"/[ \n]{0,2}/")
        return f"(LEAD {lark.opening(self.start)} {closed} GAP)?"


THINK = Thinking()
"""The tags that most models use."""


__all__ = ["THINK", "Thinking"]
