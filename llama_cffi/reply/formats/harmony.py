"""OpenAI's harmony (gpt-oss): each message names its channel and its recipient."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from llama_cffi.errors import ToolError
from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.header_calls import read_header
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_text import read_value
from llama_cffi.reply.lark import Lark, Token, either
from llama_cffi.reply.parser import ParsedFormat
from llama_cffi.reply.reasoning import Thinking
from llama_cffi.reply.tool_arguments import ToolArguments

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_THINKING = Thinking(f"{_CHANNEL}analysis{_MESSAGE}", "<|end|>", optional=False)
_TO = re.compile(r"to=(functions\.)?([A-Za-z0-9_.\-]+)")
_PEOPLE = ("assistant", "user")
"""Recipients that are not tools."""


@dataclass(frozen=True, slots=True)
class HarmonyFormat(ParsedFormat):
    """Messages of three channels: ``analysis`` is reasoning, ``final`` the answer, ``commentary`` calls or text.

    A prescribed answer (``ReplyRules.content``) holds for the final channel, and is the rest of the reply.
    """

    name: str = "harmony"
    thinking: Thinking | None = _THINKING
    controls: tuple[str, ...] = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)

    def matches(self, template: str) -> bool:
        """Return whether a model with this chat template writes replies so."""
        return _CHANNEL in template and _MESSAGE in template

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """Return what the end of a prompt says about reasoning: the value for :attr:`ReplyRules.reasoning`."""
        if prompt.endswith(f"{_CHANNEL}analysis{_MESSAGE}"):
            return "open"
        return "off" if prompt.endswith(f"{_CHANNEL}final{_MESSAGE}") else "auto"

    # -- reading

    def _read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Reading:
        tag = ""
        if rules.reasoning == "open":
            tag = yield from source.until((*_ENDS, _START), out.reasoning)
            out.tag()
        elif rules.reasoning == "off":
            tag = yield from self._answer(source, out, rules.content is not None)
        while True:
            source.record(tag if tag in (_START, _CHANNEL) else "")
            if tag not in (_START, _CHANNEL):
                yield from source.blank()
                tag = yield from source.one_of(_START, _CHANNEL, _MESSAGE, "to=", *_ENDS)
            if tag in (_START, _CHANNEL, "to="):
                tag = yield from self._message(source, out, rules)
            elif tag == _MESSAGE:
                source.recorded()
                out.tag()
                tag = yield from self._answer(source, out, rules.content is not None)
            elif tag:
                source.recorded()
                out.tag()
            else:
                out.text(source.recorded())
                tag = yield from source.until((_START, _CHANNEL, *_ENDS), out.text)
            if not tag and not (yield from source.peek()):
                return

    def _message(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Generator[None, None, str]:
        if (yield from read_header(source, _MESSAGE)) is None:
            out.text(source.recorded())
            return ""
        header = source.recorded()
        # A header that names a channel twice means the last one.
        channel = (re.findall(r"<\|channel\|>\s*([a-z]+)", header) or [""])[-1]
        to = _TO.search(header)
        recipient = to[2] if to and to[2] not in _PEOPLE else ""
        out.tag()
        if recipient and rules.choice != "none":
            yield from source.blank()
            if (yield from source.peek()) == "{":
                out.begin(recipient)
                if (yield from read_value(source, out.arguments)):
                    out.finish()
        elif not recipient and channel == "analysis":
            found = yield from source.until((*_ENDS, _START), out.reasoning)
            out.tag()
            return found
        if to and recipient and not to[1]:
            # What is said to a tool of OpenAI's own is neither the answer nor a call of a function.
            return (yield from source.until((*_ENDS, _START), _ignore))
        final = not recipient and channel == "final"
        return (yield from self._answer(source, out, final and rules.content is not None))

    def _answer(self, source: InputBuffer, out: EventBuffer, prescribed: bool) -> Generator[None, None, str]:
        if prescribed:
            yield from source.rest(out.text)
            return ""
        found = yield from source.until((*_ENDS, _START), out.text)
        if found:
            out.tag()
        return found

    # -- grammar

    def grammar(
        self,
        rules: ReplyRules,
        token: Token,
    ) -> str | None:
        """Return a Lark grammar of the replies that the rules allow; None when every text is one."""
        calls_allowed = rules.allows_calls()
        if rules.choice == "required" and rules.reasoning == "off":
            raise ToolError("a call is required, but the prompt ends inside of the answer")
        if not calls_allowed and rules.content is None:
            return None
        lark = Lark(token, self.controls)
        # The spelling of a tag would be read as the tag.
        tags = "|".join(re.escape(tag).replace(r"\|", "[|]") for tag in (*_ENDS, _START))
        words = lark.terminal("WORDS", f"ANY & ~/(?s:.*)({tags})(?s:.*)/")
        ended = f"{lark.up_to('<|end|>', words)} {lark.text(f'{_START}assistant')}"
        analysis = f"{lark.text(f'{_CHANNEL}analysis{_MESSAGE}')} {ended}"
        preamble = f"{lark.text(f'{_CHANNEL}commentary{_MESSAGE}')} {ended}"
        bodies = []
        final = lark.text(f"{_CHANNEL}final{_MESSAGE}")
        if rules.choice != "required":
            bodies.append(f"{final} {rules.content or words}")
        if calls_allowed:
            for tool in rules.tools:
                arguments = ToolArguments(tool).json(lark)
                # The template leaves out the mark that models write.
                forms = [
                    form + mark + f"json{_MESSAGE}"
                    for mark in (_CONSTRAIN, "")
                    for form in (
                        f"{_CHANNEL}commentary to=functions.{tool.name} ",
                        f" to=functions.{tool.name}{_CHANNEL}commentary ",
                    )
                ]
                bodies.append(f"{either(map(lark.text, forms))} {arguments}")
        before = [analysis]
        if rules.choice == "auto" and rules.content is None:
            before.append(preamble)
        start = f"{either(before)}* {either(bodies)}"
        if rules.reasoning == "open":
            start = f"{ended} {start}"
        elif rules.reasoning == "off":
            # The prompt began the final message.
            start = str(rules.content or words)
        return f"{lark}start: {start}\n"


def _ignore(text: str) -> None:
    """Leave out what is said to a tool that is not ours."""


HARMONY = HarmonyFormat()

FORMATS = (HARMONY,)
