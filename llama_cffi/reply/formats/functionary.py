"""Functionary: v3.1 with ``<function=NAME>``, v3.2 with ``>>>NAME`` on a line of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.header_calls import NAME, HeaderCalls, read_header
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_text import read_value
from llama_cffi.reply.lark import Lark, Token, either
from llama_cffi.reply.parser import ParsedFormat, TaggedFormat
from llama_cffi.reply.reasoning import Thinking
from llama_cffi.reply.tool_arguments import ToolArguments

FUNCTIONARY_3_1 = TaggedFormat(
    name="functionary-v3.1",
    syntax=HeaderCalls(open="<function=", sep=">", close="</function>"),
    signs=(("<function=", "</function>", "!<parameter=", "!<tool_call>"),),
    thinking=None,
)

_MARK = ">>>"
_ALL = "all"
_LINE = "\n"


@dataclass(frozen=True, slots=True)
class Functionary32(ParsedFormat):
    """Each part of a reply has a line with its recipient: ``all`` for text, else a function. The prompt ends with the
    mark of the first part."""

    name: str = "functionary-v3.2"
    thinking: Thinking | None = None
    controls: tuple[str, ...] = ()

    def matches(self, template: str) -> bool:
        """Return whether a model with this chat template writes replies so."""
        return ">>>all" in template

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """These models do not reason."""
        return "off"

    def _read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Reading:
        mark = ""
        while True:
            source.record(mark)
            name = yield from read_header(source, "\n")
            if name == _ALL:
                source.recorded()
                out.tag()
                if rules.content is not None:
                    yield from source.rest(out.text)
                    return
            elif (
                name is not None
                and rules.choice != "none"
                and re.fullmatch(NAME, name)
                and (yield from source.peek()) == "{"
            ):
                source.recorded()
                out.begin(name)
                if (yield from read_value(source, out.arguments)):
                    out.finish()
            else:
                out.text(source.recorded())
            mark = yield from source.until((_MARK,), out.text)
            if not mark:
                return

    def grammar(
        self,
        rules: ReplyRules,
        token: Token,
    ) -> str | None:
        """Return a Lark grammar of the replies that the rules allow; None when every text is one."""
        calls_allowed = rules.allows_calls()
        if not calls_allowed and rules.content is None:
            return None
        lark = Lark(token, self.controls)
        begin = lark.text(f"{_ALL}\n")
        bodies = []
        calls = ""
        if calls_allowed:
            one = either(f"{lark.text(tool.name + _LINE)} {ToolArguments(tool).json(lark)}" for tool in rules.tools)
            one = lark.rule("call", one)
            calls = f"{one} ({lark.text(_MARK)} {one})*" if rules.parallel else one
            bodies.append(calls)
        if rules.choice != "required":
            bodies.append(f"{begin} {rules.content or 'ANY'}")
            if calls and rules.content is None:
                bodies.append(f"{begin} {lark.up_to(_MARK, 'ANY')} {calls}")
        return f"{lark}start: {either(bodies)}\n"


FUNCTIONARY_3_2 = Functionary32()

FORMATS = (FUNCTIONARY_3_2, FUNCTIONARY_3_1)
