"""Calls written as a header with the name, and the arguments as JSON behind it."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from llama_cffi.reply.call_syntax import Calls
from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_text import read_value
from llama_cffi.reply.lark import Lark, either
from llama_cffi.reply.tool_arguments import ToolArguments

NAME = r"(?P<name>[A-Za-z0-9_.\-/]{1,200})"
"""What a name may look like in a header."""

_MAX_HEADER = 400


@dataclass(frozen=True, slots=True)
class HeaderCalls:
    """``section``, then for each call ``open``, a header, ``sep``, a JSON object and ``close``, then the section's end.

    ``header`` is what stands between ``open`` and ``sep``, with ``{name}``, ``{n}`` for a number and ``{id}`` for an
    identifier of nine letters and digits; ``pattern`` finds the groups ``name`` and, if there is one, ``id`` in it.
    """

    open: str
    sep: str
    close: str
    header: str = "{name}"
    pattern: str = NAME
    section: tuple[str, str] = ("", "")
    between: str = ""
    closes: tuple[str, ...] = ()
    """Other texts that may stand behind a call."""

    @property
    def opens(self) -> tuple[str, ...]:
        """The tags that calls begin with; a section's is the usual one, and models leave it out."""
        return (self.section[0], self.open) if self.section[0] else (self.open,)

    def read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, opened: str) -> Reading:
        """Read one call."""
        if opened != self.open:
            yield from source.blank()
            if not (yield from source.one_of(self.open)):
                out.text(source.recorded())
                return
        header = yield from read_header(source, self.sep)
        found = re.fullmatch(self.pattern, header) if header is not None else None
        if found:
            yield from source.blank()
        if not found or (yield from source.peek()) != "{":
            out.text(source.recorded())
            return
        source.recorded()
        groups = found.groupdict()
        out.begin(groups["name"], groups.get("id") or "")
        if (yield from read_value(source, out.arguments)) and out.finish():
            yield from skip(source, self._ends())
            out.tag()

    def _ends(self) -> tuple[str, ...]:
        close = self.close.strip()
        return tuple(filter(None, (close, self.section[1].strip(), *self.closes)))

    def calls(self, lark: Lark, rules: ReplyRules) -> Calls:
        """Return the header of one of the tools, and arguments that fit."""
        one = lark.rule("call", either(self._call(lark, tool) for tool in rules.tools))
        again = f"{lark.text(self.between + self.open)} {one}" if rules.parallel else ""
        if not self.section[0]:
            return Calls(((self.open, one),), again)
        more = f" ({again})*" if again else ""
        whole = f"{lark.text(self.open)} {one}{more} {lark.text(self.section[1])}"
        return Calls(((self.section[0], whole), (self.open, f"{one}{more}")))

    def _call(self, lark: Lark, tool: ToolSpec) -> str:
        begin = lark.template(self.header.replace("{name}", tool.name) + self.sep)
        return f"{begin} {ToolArguments(tool).json(lark)} {lark.text(self.close)}".rstrip()


def read_header(source: InputBuffer, sep: str) -> Generator[None, None, str | None]:
    """Read the text before ``sep``, which is read too; None when there is none on this line, or it is too long.

    A header that is none is read no further than necessary: a call may begin behind it.
    """
    header = ""
    while True:
        if (yield from source.one_of(sep)):
            return header
        char = yield from source.peek()
        if not char or char == "\n" or len(header) >= _MAX_HEADER:
            return None
        header += yield from source.one_of(char)


def skip(source: InputBuffer, ends: tuple[str, ...]) -> Reading:
    """Skip whitespace and any of these texts, as often as they come."""
    while True:
        yield from source.blank()
        if not ends or not (yield from source.one_of(*ends)):
            return


__all__ = ["NAME", "HeaderCalls", "read_header", "skip"]
