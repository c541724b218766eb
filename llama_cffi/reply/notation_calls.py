"""Calls written like those of a programming language, with values that are nearly JSON."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from llama_cffi.reply.call_syntax import Calls
from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.lark import Lark, either
from llama_cffi.reply.notation import Notation
from llama_cffi.reply.notation_writer import NotationWriter
from llama_cffi.reply.tool_arguments import ToolArguments

_NAME = re.compile(r"[A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class NotationCalls:
    """``open``, then ``prefix``, a name and arguments in ``brackets``, then ``close``; several calls in a list if
    ``listed``."""

    open: str
    close: str
    notation: Notation
    brackets: str
    prefix: str = ""
    listed: bool = False

    @property
    def opens(self) -> tuple[str, ...]:
        """The tag that calls begin with."""
        return (self.open,)

    def read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, opened: str) -> Reading:
        """Read the calls between the tags."""
        n_calls = 0
        yield from source.blank()
        if self.listed:
            yield from source.one_of("[")
        while True:
            yield from source.blank()
            if self.prefix:
                yield from source.one_of(self.prefix)
            name = yield from source.run(_NAME)
            if not name or not (yield from source.one_of(self.brackets[0])):
                out.text(source.recorded())
                return
            source.recorded()
            out.begin(name)
            if not (yield from self._arguments(source, out)) or not out.finish():
                return
            n_calls += 1
            source.record()
            yield from source.blank()
            if not self.listed or not (yield from source.one_of(",")):
                break
        if self.listed:
            yield from source.one_of("]")
        yield from source.blank()
        yield from source.one_of(self.close)
        source.recorded()
        out.tag()

    def _arguments(self, source: InputBuffer, out: EventBuffer) -> Generator[None, None, bool]:
        close = self.brackets[1]
        yield from source.blank()
        if (yield from source.peek()) == "{":
            # Some write the arguments as one object.
            whole = yield from self.notation.read(source, out.arguments)
            yield from source.blank()
            return whole and bool((yield from source.one_of(close)))
        out.arguments("{")
        if not (yield from self.notation.members(source, out.arguments, close, self.notation.assign)):
            return False
        out.arguments("}")
        return True

    def calls(self, lark: Lark, rules: ReplyRules) -> Calls:
        """Return the tools' names, and their arguments in the order of their schemas."""
        begin, end = self.brackets[:1], lark.text(self.brackets[1:])
        names = ((lark.text(self.prefix + tool.name + begin), tool) for tool in rules.tools)
        one = lark.rule(
            "call",
            either(
                f"{name} {NotationWriter(lark, self.notation, ToolArguments(tool)).arguments()} {end}"
                for name, tool in names
            ),
        )
        if self.listed:
            more = f"({lark.text(', ')} {one})*" if rules.parallel else ""
            return Calls(((self.open, f'"[" {one} {more} "]" {lark.text(self.close)}'),))
        rest = f"{one} {lark.text(self.close)}"
        return Calls(((self.open, rest),), f"{lark.text(self.open)} {rest}" if rules.parallel else "")


__all__ = ["NotationCalls"]
