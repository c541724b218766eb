"""OpenAI's harmony (gpt-oss): each message names its channel and its recipient."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi.errors import ToolError
from llama_cffi.text.reply.format import Plan
from llama_cffi.text.reply.header_calls import read_header
from llama_cffi.text.reply.json_text import read_value
from llama_cffi.text.reply.lark import Lark, Token, either, json_schema
from llama_cffi.text.reply.outbox import Outbox
from llama_cffi.text.reply.parser import ReplyParser
from llama_cffi.text.reply.reasoning import Thinking
from llama_cffi.text.reply.source import Reading, Source

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_THINKING = Thinking(f"{_CHANNEL}analysis{_MESSAGE}", "<|end|>", optional=False)
_TO = re.compile(r"to=(?:functions\.)?([A-Za-z0-9_.\-]+)")


@dataclass(frozen=True, slots=True)
class HarmonyFormat:
    """Messages of three channels: ``analysis`` is reasoning, ``final`` the answer, ``commentary`` calls or text.

    A prescribed answer (``Plan.content``) holds for the final channel, and is the rest of the reply.
    """

    name: str = "harmony"
    thinking: Thinking | None = _THINKING
    controls: tuple[str, ...] = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)

    def matches(self, template: str) -> bool:
        """Whether a model with this chat template writes replies so."""
        return _CHANNEL in template and _MESSAGE in template

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """What the end of a prompt says about reasoning: the value for :attr:`Plan.reasoning`."""
        if prompt.endswith(f"{_CHANNEL}analysis{_MESSAGE}"):
            return "open"
        return "off" if prompt.endswith(f"{_CHANNEL}final{_MESSAGE}") else "auto"

    def instructions(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Nothing: the chat template itself tells of the tools."""
        return ""

    # -- reading

    def parser(self, plan: Plan) -> ReplyParser:
        """A parser for one reply."""
        return ReplyParser(lambda source, out: self._read(source, out, plan))

    def _read(self, source: Source, out: Outbox, plan: Plan) -> Reading:
        tag = ""
        if plan.reasoning == "open":
            tag = yield from source.until((*_ENDS, _START), out.reasoning)
            out.tag()
        elif plan.reasoning == "off":
            tag = yield from self._answer(source, out, plan.content is not None)
        while True:
            source.record(tag if tag in (_START, _CHANNEL) else "")
            if tag not in (_START, _CHANNEL):
                yield from source.blank()
                tag = yield from source.one_of(_START, _CHANNEL, "to=", *_ENDS)
            if tag in (_START, _CHANNEL, "to="):
                tag = yield from self._message(source, out, plan)
            elif tag:
                source.recorded()
                out.tag()
            else:
                out.text(source.recorded())
                tag = yield from source.until((_START, _CHANNEL, *_ENDS), out.text)
            if not tag and not (yield from source.peek()):
                return

    def _message(self, source: Source, out: Outbox, plan: Plan) -> Generator[None, None, str]:
        if (yield from read_header(source, _MESSAGE)) is None:
            out.text(source.recorded())
            return ""
        header = source.recorded()
        channel = re.search(r"<\|channel\|>\s*([a-z]+)", header)
        to = _TO.search(header)
        out.tag()
        if to and plan.choice != "none":
            yield from source.blank()
            if (yield from source.peek()) == "{":
                out.begin(to[1])
                if (yield from read_value(source, out.arguments)):
                    out.finish()
        elif channel and channel[1] == "analysis":
            found = yield from source.until((*_ENDS, _START), out.reasoning)
            out.tag()
            return found
        final = not to and channel is not None and channel[1] == "final"
        return (yield from self._answer(source, out, final and plan.content is not None))

    def _answer(self, source: Source, out: Outbox, prescribed: bool) -> Generator[None, None, str]:
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
        plan: Plan,
        token: Token,
        schema: Callable[[Mapping[str, Any]], str] = json_schema,
    ) -> str | None:
        """A Lark grammar of the replies that the plan allows; None when every text is one."""
        calls_allowed = plan.allows_calls()
        if plan.choice == "required" and plan.reasoning == "off":
            raise ToolError("a call is required, but the prompt ends inside of the answer")
        if not calls_allowed and plan.content is None:
            return None
        lark = Lark(token, self.controls, schema)
        # The spelling of a tag would be read as the tag.
        tags = "|".join(re.escape(tag).replace(r"\|", "[|]") for tag in (*_ENDS, _START))
        words = lark.terminal("WORDS", f"ANY & ~/(?s:.*)({tags})(?s:.*)/")
        ended = f"{lark.up_to('<|end|>', words)} {lark.text(f'{_START}assistant')}"
        analysis = f"{lark.text(f'{_CHANNEL}analysis{_MESSAGE}')} {ended}"
        preamble = f"{lark.text(f'{_CHANNEL}commentary{_MESSAGE}')} {ended}"
        bodies = []
        final = lark.text(f"{_CHANNEL}final{_MESSAGE}")
        if plan.choice != "required":
            bodies.append(f"{final} {plan.content or words}")
        if calls_allowed:
            for tool in plan.tools:
                arguments = lark.json(tool.parameters)
                forms = (
                    f"{_CHANNEL}commentary to=functions.{tool.name} {_CONSTRAIN}json{_MESSAGE}",
                    f" to=functions.{tool.name}{_CHANNEL}commentary {_CONSTRAIN}json{_MESSAGE}",
                )
                bodies.append(f"{either(map(lark.text, forms))} {arguments}")
        before = [analysis]
        if plan.choice == "auto" and plan.content is None:
            before.append(preamble)
        start = f"{either(before)}* {either(bodies)}"
        if plan.reasoning == "open":
            start = f"{ended} {start}"
        elif plan.reasoning == "off":
            # The prompt began the final message.
            start = str(plan.content or words)
        return f"{lark}start: {start}\n"


HARMONY = HarmonyFormat()

FORMATS = (HARMONY,)
