"""Muse Glimmer: each message names its recipient, and calls are written in tags."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal

from llama_cffi.errors import ToolError
from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.header_calls import read_header
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.lark import Lark, Token, either
from llama_cffi.reply.parser import ParsedFormat
from llama_cffi.reply.reasoning import Thinking
from llama_cffi.reply.value_calls import ValueCalls

_START, _MESSAGE, _MORE, _END = "<|start|>", "<|message|>", "<|eom|>", "<|eot|>"
_ENDS = (_MORE, _END, _START)
_TO = re.compile(r"to=(\S+)")
_THINKING = Thinking(f" to=self{_MESSAGE}", _MORE, optional=False)
_CALLS = ValueCalls(
    section=("<atem:function_calls>\n", "\n</atem:function_calls>"),
    together=False,
    open='<atem:invoke name="',
    named='">\n',
    key='<atem:parameter name="',
    keyed='">',
    end="</atem:parameter>",
    close="</atem:invoke>",
)


@dataclass(frozen=True, slots=True)
class MuseFormat(ParsedFormat):
    """Messages to ``self`` are reasoning, to ``user`` the answer, to a tool a call. The prompt ends in front of the
    first recipient. A prescribed answer is the rest of the reply."""

    name: str = "muse-glimmer"
    thinking: Thinking | None = _THINKING
    controls: tuple[str, ...] = (_START, _MESSAGE, _MORE, _END)

    def matches(self, template: str) -> bool:
        """Return whether a model with this chat template writes replies so."""
        return "<atem:function_calls>" in template

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """Return what the end of a prompt says about reasoning: the value for :attr:`ReplyRules.reasoning`."""
        if prompt.endswith(f"to=self{_MESSAGE}"):
            return "open"
        return "off" if prompt.endswith(f"to=user{_MESSAGE}") else "auto"

    # -- reading

    def _read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Reading:
        found = ""
        if rules.reasoning == "open":
            found = yield from source.until(_ENDS, out.reasoning)
            out.tag()
        elif rules.reasoning == "off":
            found = yield from self._answer(source, out, rules)
        while True:
            while found in (_MORE, _END):
                yield from source.blank()
                found = yield from source.one_of(*_ENDS)
            source.record(found)
            header = yield from read_header(source, _MESSAGE)
            to = _TO.search(header) if header is not None else None
            if header is None or (header.strip() not in ("", "assistant") and not to):
                out.text(source.recorded())
                found = yield from source.until(_ENDS, out.text)
            else:
                source.recorded()
                out.tag()
                found = yield from self._message(source, out, rules, to[1] if to else "user")
            if found:
                out.tag()
            elif not (yield from source.peek()):
                return

    def _message(
        self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, recipient: str
    ) -> Generator[None, None, str]:
        """Read one message and what ends it."""
        if recipient == "self":
            return (yield from source.until(_ENDS, out.reasoning))
        if recipient != "user" and rules.choice != "none":
            yield from source.blank()
            opened = yield from source.one_of(*_CALLS.opens)
            if opened:
                source.record(opened)
                yield from _CALLS.read(source, out, rules, opened)
            return (yield from source.until(_ENDS, out.text))
        return (yield from self._answer(source, out, rules))

    def _answer(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Generator[None, None, str]:
        if rules.content is None:
            return (yield from source.until(_ENDS, out.text))
        found = yield from source.until((_END,), out.text)
        if found:
            out.tag()
        yield from source.blank()
        return ""

    # -- grammar

    def grammar(self, rules: ReplyRules, token: Token) -> str | None:
        """Return a Lark grammar of the replies that the rules allow; None when every text is one."""
        calls_allowed = rules.allows_calls()
        if rules.choice == "required" and rules.reasoning == "off":
            raise ToolError("a call is required, but the prompt ends inside of the answer")
        if not calls_allowed and rules.content is None:
            return None
        lark = Lark(token, self.controls)
        # The spelling of a tag would be read as the tag.
        tags = "|".join(re.escape(tag).replace(r"\|", "[|]") for tag in _ENDS)
        words = lark.terminal("WORDS", f"ANY & ~/(?s:.*)({tags})(?s:.*)/")
        ended = f"{lark.up_to(_MORE, words)} {lark.text(f'{_START}assistant')}"
        before = [f"{lark.text(f' to=self{_MESSAGE}')} {ended}"]
        user = lark.text(f" to=user{_MESSAGE}")
        end = f"({lark.text(_END)})?"
        if rules.choice == "auto" and rules.content is None:
            before.append(f"{user} {ended}")
        bodies = []
        if rules.choice != "required":
            bodies.append(f"{user} {rules.content or words}")
        if calls_allowed:
            one = lark.rule("call", either(self._call(lark, rules, i) for i in range(len(rules.tools))))
            more = f" ({lark.text(f'{_MORE}{_START}assistant')} {one})*" if rules.parallel else ""
            bodies.append(f"{one}{more}")
        start = f"{either(before)}* {either(bodies)} {end}"
        if rules.reasoning == "open":
            start = f"{ended} {start}"
        elif rules.reasoning == "off":
            start = f"{rules.content or words} {end}"
        return f"{lark}start: {start}\n"

    def _call(self, lark: Lark, rules: ReplyRules, index: int) -> str:
        tool = rules.tools[index]
        opened, rest = _CALLS.calls(lark, replace(rules, tools=(tool,), parallel=False)).openings[0]
        return f"{lark.text(f' to={tool.name}{_MESSAGE}{opened}')} {rest}"


MUSE = MuseFormat()

FORMATS = (MUSE,)
