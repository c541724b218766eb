"""Calls written as tags: one for the name, and one for each argument with its value as text."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass

from llama_cffi.reply.call_syntax import Calls
from llama_cffi.reply.event_buffer import EventBuffer, loads
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.header_calls import skip
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_text import read_value
from llama_cffi.reply.lark import Lark, either, literal, regex
from llama_cffi.reply.notation import python_as_json
from llama_cffi.reply.properties import Kind, Property, kind_of, properties, text_pattern

_NAME = re.compile(r"[A-Za-z0-9_.\-]*")
_KEY_STOPS = re.compile(r"[^<>\n\"]*")


@dataclass(frozen=True, slots=True)
class ValueCalls:
    """``section``, then for each call ``open``, its name, ``named``, the arguments and ``close``; the section's end.

    An argument is ``key``, its name, ``keyed``, perhaps ``value``, the value and ``end``. Whitespace at the ends of
    these is what the model was trained to write; the parser takes any. ``typed`` stands for ``keyed`` where the tags
    tell a text (the first) from JSON (the second); else the tool's schema does.
    """

    open: str
    named: str
    key: str
    keyed: str
    end: str
    close: str
    section: tuple[str, str] = ("", "")
    together: bool = True
    """Whether a section holds all calls of a reply, or one."""
    value: str = ""
    lead: str = ""
    """Stands between ``keyed`` and the value, and is none of it."""
    gap: str = "\n"
    """Stands behind each argument."""
    between: str = "\n"
    quote: tuple[str, str] | None = None
    """What a text may stand in that holds tags of its own."""
    typed: tuple[str, str] | None = None
    closes: tuple[str, ...] = ()
    """Other texts that close a call."""

    @property
    def opens(self) -> tuple[str, ...]:
        """The tags that calls begin with; a section's is the usual one, and models leave it out."""
        return (self.section[0].rstrip(), self.open) if self.section[0] else (self.open,)

    # -- reading

    def read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, opened: str) -> Reading:
        """Read one call."""
        if opened != self.open:
            yield from source.blank()
            if not (yield from source.one_of(self.open)):
                out.text(source.recorded())
                return
        name = (yield from source.run(_NAME)).strip()
        named = self.named.strip()
        if named:
            good = bool((yield from source.one_of(named)))
        else:
            yield from source.blank()
            good = (yield from source.peek()) == self.key[0]
        if not name or not good:
            out.text(source.recorded())
            return
        source.recorded()
        out.begin(name)
        out.arguments("{")
        tool = next((tool for tool in rules.tools if tool.name == name), None)
        yield from self._arguments(source, out, tool)

    def _arguments(self, source: InputBuffer, out: EventBuffer, tool: ToolSpec | None) -> Reading:
        ends = tuple({self.close.strip(), *self.closes} - {""})
        n = 0
        while True:
            yield from source.blank()
            tag = yield from source.one_of(self.key, *ends)
            if tag in ends:
                out.arguments("}")
                if out.finish():
                    yield from skip(source, tuple(filter(None, (*ends, self.section[1].strip()))))
                    out.tag()
                return
            if not tag:
                return
            key = yield from source.run(_KEY_STOPS)
            keyed = tuple(keyed.strip() for keyed in self.typed or (self.keyed,))
            found = yield from source.one_of(*keyed)
            if found and self.value:
                yield from source.blank()
                found = yield from source.one_of(self.value)
            if not found:
                return
            kind: Kind = kind_of(tool, key)
            if self.typed:
                kind = "text" if found == keyed[0] else "json"
            out.arguments((", " if n else "") + json.dumps(key, ensure_ascii=False) + ": ")
            n += 1
            if not (yield from self._value(source, out, kind)):
                return

    def _value(self, source: InputBuffer, out: EventBuffer, kind: Kind) -> Generator[None, None, bool]:
        ends = (self.end, f"\n{self.end}") if self.lead else (self.end,)
        if self.lead:
            yield from source.one_of(self.lead)
        if kind == "text":
            out.arguments('"')
            if self.quote and (yield from source.one_of(self.quote[0])):
                yield from source.until((self.quote[1],), lambda text: out.arguments(_escaped(text)))
            done = yield from source.until(ends, lambda text: out.arguments(_escaped(text)))
            if done:
                out.arguments('"')
            return bool(done)
        pieces: list[str] = []
        pieces.append((yield from source.blank()))
        if (yield from source.peek()) in ("{", "[", '"'):
            # The text of a JSON value may hold the tag that ends it, so that its own end is looked for.
            yield from read_value(source, pieces.append)
        done = yield from source.until(ends, pieces.append)
        if done:
            text = "".join(pieces)
            bare: str | None = text.strip()
            if bare != "null" and loads(text) is None:
                # Some models, and some templates, write Python.
                bare = python_as_json(text) if kind == "json" else None
            out.arguments(json.dumps(text, ensure_ascii=False) if bare is None else bare)
        else:
            out.arguments("".join(pieces))
        return bool(done)

    # -- grammar

    def calls(self, lark: Lark, rules: ReplyRules) -> Calls:
        """The name of one of the tools, and its arguments in the order of its schema."""
        one = lark.rule("call", either(self._call(lark, tool) for tool in rules.tools))
        opened, closed = self.section
        if not opened:
            more = f"{lark.text(self.between + self.open)} {one}" if rules.parallel else ""
            return Calls(((self.open, one),), more)
        tag = opened.rstrip()
        head = f"{lark.text(opened[len(tag) :] + self.open)} {one}"
        if not self.together:
            more = f"{lark.text(self.between + tag)} {head} {lark.text(closed)}" if rules.parallel else ""
            return Calls(((tag, f"{head} {lark.text(closed)}"), (self.open, one)), more)
        more = f" ({lark.text(self.between + self.open)} {one})*" if rules.parallel else ""
        return Calls(((tag, f"{head}{more} {lark.text(closed)}"), (self.open, f"{one}{more}")))

    def _call(self, lark: Lark, tool: ToolSpec) -> str:
        parts = [lark.text(tool.name + self.named)]
        for prop in properties(tool):
            rule = lark.rule("argument", self._argument(lark, tool, prop))
            parts.append(rule if prop.required else f"({rule})?")
        parts.append(lark.text(self.close))
        return " ".join(filter(None, parts))

    def _argument(self, lark: Lark, tool: ToolSpec, prop: Property) -> str:
        kind = kind_of(tool, prop.name)
        keyed = self.typed[0 if kind == "text" else 1] if self.typed else self.keyed
        begin = lark.text(self.key + prop.name + keyed + self.value + self.lead)
        closing = ("\n" if self.lead else "") + self.end
        if kind != "text":
            return f"{begin} {lark.json(prop.schema)} {lark.text(closing + self.gap)}"
        pattern = text_pattern(tool, prop, self.end)
        if self.quote:
            pattern = f"{pattern or 'ANY'} & ~{regex(literal(self.quote[0]) + '(?s:.*)')}"
        if pattern is None:
            return f"{begin} {lark.up_to(self.end, 'ANY')} {lark.text(self.gap)}".rstrip()
        return f"{begin} {lark.up_to(closing, lark.terminal_of(pattern))} {lark.text(self.gap)}".rstrip()


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


__all__ = ["ValueCalls"]
