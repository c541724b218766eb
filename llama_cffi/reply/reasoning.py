"""The reasoning of a model before its answer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.lark import Lark, literal, quoted

ReadCall = Callable[[InputBuffer, EventBuffer, str], Reading]
"""Reads the call that the given tag opened; what is no call goes out as text."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """The texts around reasoning, which stands at the beginning of a reply or nowhere."""

    start: str = "<think>"
    end: str = "</think>"
    optional: bool = True
    """Whether a reply can be held to go without: not where every part of a reply says what it is."""
    again: bool = False
    """Whether reasoning may begin anywhere in a reply."""
    also: tuple[str, ...] = ()
    """Other tags that end reasoning, and belong to what follows."""
    strays: tuple[str, ...] = ()
    """Tags that models leave standing alone, and that mean nothing then."""

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """Return what a prompt leaves to the reply: reasoning that is open, none because it was closed, or either."""
        shown = prompt.rstrip()
        if shown.endswith(self.start.rstrip()):
            return "open"
        return "off" if shown.endswith((self.end.rstrip(), *self.also)) else "auto"

    def read(
        self,
        source: InputBuffer,
        out: EventBuffer,
        open: bool,
        opens: tuple[str, ...] = (),
        read_call: ReadCall | None = None,
    ) -> Generator[None, None, None]:
        """Read the reasoning, if there is any, with its tags. ``open``: it began in the prompt.

        ``opens`` are the tags that calls begin with, and ``read_call`` reads one. A call inside of reasoning is a call
        if the reply ends without the end of the reasoning; it stays unread then.
        """
        start = self.start.rstrip()
        blank = yield from source.blank()
        found = yield from source.one_of(start, *self.strays)
        while found and found != start:
            out.tag()
            blank = yield from source.blank()
            found = yield from source.one_of(start, *self.strays)
            open = False
        if found:
            out.tag()
        elif not open:
            out.text(blank)
            return
        else:
            out.reasoning(blank)
        yield from self.read_open(source, out, opens, read_call)

    def read_open(
        self, source: InputBuffer, out: EventBuffer, opens: tuple[str, ...] = (), read_call: ReadCall | None = None
    ) -> Generator[None, None, None]:
        """Read the reasoning from behind its first tag on."""
        while True:
            found = yield from source.until((self.end, *self.also, *opens), out.reasoning)
            if found not in opens:
                if found in self.also:
                    source.unread(found)
                if found:
                    out.tag()
                return
            if read_call is None or (yield from self._held(source, out, found, read_call)):
                return

    def _held(
        self, source: InputBuffer, out: EventBuffer, opened: str, read_call: ReadCall
    ) -> Generator[None, None, bool]:
        """Hold back what may be a call until the reasoning ends, or the reply; False when it is no call."""
        trial = EventBuffer()
        source.record(opened)
        taken: list[str] = []
        source.copy = taken
        for _ in read_call(source, trial, opened):
            if trial.begun:
                break
            yield
        source.copy = None
        source.recorded()
        text = "".join((opened, *taken))
        ends = (self.end, *self.also)
        if not trial.begun:
            place = _end_of_text(text, ends)
            out.reasoning(text[:place])
            source.unread(text[place:])
            return False
        held: list[str] = []
        source.unread(text)
        found = yield from source.until(ends, held.append)
        if found:
            out.reasoning("".join(held))
            source.unread(found)
            return False
        source.unread("".join(held))
        return True

    def rule(self, lark: Lark, open: bool) -> str:
        """Return the expression of the reasoning: optional unless the prompt opened it."""
        text = "ANY"
        if self.also:
            tags = "|".join(map(literal, self.also))
            text = lark.terminal("THOUGHT", f"ANY & ~/(?s:.*)({tags})(?s:.*)/")
        closed = lark.rule("thought", lark.up_to(self.end, text))
        lark.terminal("GAP", r"/\n{0,2}/")
        if open:
            return f"{closed} GAP"
        lead = r"/[ \n]{0,2}/"
        # One lexeme with the tag: else an answer in text would take the whitespace.
        spelled = lark.terminal_of(f"{lead} {quoted(self.start)}")
        token = lark.text(self.start)
        opened = spelled if token == quoted(self.start) else f"({lark.terminal('LEAD', lead)} {token} | {spelled})"
        return f"({opened} {closed} GAP)?"


def _end_of_text(text: str, ends: tuple[str, ...]) -> int:
    """Where the first of ``ends`` begins, or what may become one at the end of the text; its length for none."""
    places = [place for place in map(text.find, ends) if place >= 0]
    if places:
        return min(places)
    longest = max(map(len, ends))
    tails = range(max(1, len(text) - longest + 1), len(text))
    return next((i for i in tails if any(end.startswith(text[i:]) for end in ends)), len(text))


THINK = Thinking()
"""The tags that most models use."""


__all__ = ["THINK", "Thinking"]
