"""Calls that are plain JSON: a reply that begins with a matching object is a call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.header_calls import skip
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_calls import CallObject, Keys, known_names, object_rule
from llama_cffi.reply.lark import Lark, Token, either, literal, regex
from llama_cffi.reply.parser import ReplyParser
from llama_cffi.reply.reasoning import THINK, Thinking

_FENCES = ("```json\n", "```\n")

_INSTRUCTIONS = """\
You can call functions. To call one, reply with nothing but a JSON object of this form:
{{"name": "the name of the function", "{arguments}": {{"the name of a parameter": "its value"}}}}
{several}Reply in plain text when no function is needed. The functions, each with the JSON Schema of its {arguments}:
{tools}"""


@dataclass(frozen=True, slots=True)
class BareJsonFormat:
    """Optional reasoning, then either text or calls, each a JSON object on a line of its own.

    Such an object may as well be an answer. It is a call when it begins with one of ``firsts`` and its name is one of
    the tools; the grammar lets no other text begin so. A prescribed answer (``ReplyRules.content``) must not be
    an object that begins like a call.
    """

    name: str
    keys: Keys
    firsts: tuple[str, ...]
    tag: str = ""
    """A text in front of calls, which some models write."""
    between: str = "\n"
    signs: tuple[str, ...] = ()
    thinking: Thinking | None = THINK
    told: bool = True
    """Whether the chat template itself writes the tools."""

    @property
    def controls(self) -> tuple[str, ...]:
        """The tag in front of calls, and those of reasoning."""
        tags = (self.thinking.start, self.thinking.end) if self.thinking else ()
        return tuple(filter(None, (self.tag, *tags)))

    def matches(self, template: str) -> bool:
        """Return whether a model with this chat template writes replies so."""
        return any(sign in template for sign in self.signs)

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """Return what the end of a prompt says about reasoning: the value for :attr:`ReplyRules.reasoning`."""
        return self.thinking.state(prompt) if self.thinking else "off"

    def instructions(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Return what a model must be told of the tools, in a system message; "" where the chat template does that.

        ``tools`` are in the form of OpenAI's API.
        """
        if self.told or not tools:
            return ""
        lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
        several = "For several calls, write one such object on each line. "
        return _INSTRUCTIONS.format(arguments=self.keys.arguments, several=several, tools=lines)

    # -- reading

    def parser(self, rules: ReplyRules) -> ReplyParser:
        """Return a parser for one reply."""
        return ReplyParser(lambda source, out: self._read(source, out, rules))

    def _read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Reading:
        if self.thinking and rules.reasoning != "off":
            yield from self.thinking.read(source, out, rules.reasoning == "open")
        if rules.choice != "none":
            source.record()
            yield from self._begin(source)
            while (yield from source.peek()) == "{":
                if not (yield from CallObject(source, out, self.keys, known_names(rules), self.firsts).read()):
                    break
                yield from skip(source, ("```", ";", ","))
                source.record()
            else:
                out.text(source.recorded())
        yield from source.rest(out.text)

    def _begin(self, source: InputBuffer) -> Reading:
        yield from source.blank()
        if self.tag and (yield from source.one_of(self.tag)):
            yield from source.blank()
        if (yield from source.one_of(*_FENCES)):
            yield from source.blank()

    # -- grammar

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
        begin = []
        if self.thinking and rules.reasoning != "off":
            begin.append(self.thinking.rule(lark, rules.reasoning == "open"))
        bodies = []
        if rules.choice != "required":
            bodies.append(rules.content if rules.content is not None else self._plain(lark, calls_allowed))
        if calls_allowed:
            one = lark.rule("call", either(object_rule(lark, tool, self.keys) for tool in rules.tools))
            more = f" ({lark.text(self.between)} {one})*" if rules.parallel else ""
            tag = f"({lark.text(self.tag)})? " if self.tag else ""
            bodies.append(f"{tag}{one}{more}")
        return f"{lark}start: {' '.join((*begin, either(bodies)))}\n"

    def _plain(self, lark: Lark, calls_allowed: bool) -> str:
        not_text = [literal(self.thinking.start)] if self.thinking else []
        if calls_allowed:
            keys = "|".join(map(literal, self.firsts))
            fence = r"\s*(```(json)?\n\s*)?"
            tag = rf"({literal(self.tag)})?" if self.tag else ""
            # A key may be spelled with escapes, and is then the same key.
            not_text.append(rf'{tag}{fence}\{{\s*"({keys}|[^"]*\\)')
        if not not_text:
            return "ANY"
        begins = "|".join(not_text)
        pattern = regex(rf"\s*({begins})(?s:.*)")
        return lark.terminal("PLAIN", f"ANY & ~{pattern}")


__all__ = ["BareJsonFormat"]
