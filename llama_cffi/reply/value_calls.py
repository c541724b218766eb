"""Calls written as tags: one for the name, and one for each argument with its value as text."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from llama_cffi.errors import ToolError
from llama_cffi.grammar.form import of_type, types_of
from llama_cffi.grammar.shapes import Object, Shape, Simple
from llama_cffi.reply.call_syntax import Calls
from llama_cffi.reply.event_buffer import EventBuffer, loads
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.header_calls import skip
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_text import read_value
from llama_cffi.reply.lark import Lark, either
from llama_cffi.reply.notation import python_as_json
from llama_cffi.reply.text_rules import Bare, TextRules, text_rules
from llama_cffi.reply.tool_arguments import Kind, ToolArguments, kind_of

_NAME = re.compile(r"[A-Za-z0-9_.\-]*")
_DIGITS = re.compile(r"[0-9]*")
_TYPES = ("number", "boolean", "null", "object", "array")
_KEY_STOPS = re.compile(r"[^<>\n\"]*")
_WRITTEN_KEY = r'[^\s<>"](?:[^<>\n"]*[^\s<>"])?'
"""Names that are read again as they were written."""


@dataclass(frozen=True, slots=True)
class ValueCalls:
    """``section``, then for each call ``open``, its name, ``named``, the arguments and ``close``; the section's end.

    An argument is ``key``, its name, ``keyed``, perhaps ``value``, the value and ``end``. Whitespace at the ends of
    these is what the model was trained to write; the parser takes any. ``typed`` stands for ``keyed`` where the tags
    tell a text (the first) from JSON (the others: one for any value, or with ``{type}`` one for those of a type); else
    the tool's schema does. ``named`` may hold ``{n}``, a number that counts the calls.
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
        named, number, behind = self.named.strip().partition("{n}")
        if named:
            good = bool((yield from source.one_of(named)))
            if good and number:
                good = bool((yield from source.run(_DIGITS))) and bool((yield from source.one_of(behind)))
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
            keyed = tuple(keyed.strip() for keyed in self._typed or (self.keyed,))
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
        quoted = bool(self.quote and kind != "json" and (yield from source.one_of(self.quote[0])))
        if kind == "text" or quoted:
            out.arguments('"')
            if self.quote and quoted:
                yield from source.until((self.quote[1],), lambda text: out.arguments(_escaped(text)))
            done = yield from source.until(ends, lambda text: out.arguments(_escaped(text)))
            if done:
                out.arguments('"')
            return bool(done)
        pieces: list[str] = []
        pieces.append((yield from source.blank()))
        # The text of a JSON value may hold the tag that ends it, so that its own end is looked for.
        if (yield from source.peek()) in ("{", "[", '"') and not (
            yield from read_value(source, pieces.append, strict=True)
        ):
            source.unread("".join(pieces))
            pieces.clear()
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
        """Return the name of one of the tools, and its arguments in the order of its schema."""
        one = lark.rule("call", either(self._call(lark, tool) for tool in rules.tools))
        opened, closed = self.section
        if not opened:
            more = f"{lark.text(self.between + self.open)} {one}" if rules.parallel else ""
            return Calls(((self.open, one),), more)
        tag = opened.rstrip()
        head = f"{lark.text(opened[len(tag) :] + self.open)} {one}"
        if not self.together:
            gap = f"({lark.text(self.between)})? " if self.between else ""
            more = f"{gap}{lark.text(tag)} {head} {lark.text(closed)}" if rules.parallel else ""
            return Calls(((tag, f"{head} {lark.text(closed)}"), (self.open, one)), more)
        more = f" ({lark.text(self.between + self.open)} {one})*" if rules.parallel else ""
        return Calls(((tag, f"{head}{more} {lark.text(closed)}"), (self.open, f"{one}{more}")))

    def _call(self, lark: Lark, tool: ToolSpec) -> str:
        taken = ToolArguments(tool)
        lists = [self._members(lark, taken, one) for one in taken.one_by_one()]
        begin = (lark.text(tool.name), lark.template(self.named))
        return " ".join(filter(None, (*begin, either(lists) if len(lists) > 1 else lists[0], lark.text(self.close))))

    def _members(self, lark: Lark, taken: ToolArguments, shape: Object) -> str:
        parts = []
        for name, state in shape.properties.items():
            rule = lark.rule("argument", self._argument(lark, taken, name, taken.shapes(state)))
            parts.append(rule if name in shape.required else f"({rule})?")
        if not shape.required:
            parts.append(r'("\n")?')
        return " ".join(parts)

    def _argument(self, lark: Lark, taken: ToolArguments, name: str, shapes: tuple[Shape, ...]) -> str:
        """Texts as they are, anything else as JSON."""
        taken.check_name(name, _WRITTEN_KEY)
        kind = taken.kind(name)
        closing = ("\n" if self.lead else "") + self.end
        written = []
        texts = [] if kind == "json" else self._texts(lark, shapes, kind)
        if texts:
            keyed = self.typed[0] if self.typed else self.keyed
            written.append(f"{self._key(lark, name, keyed)} {either(texts)}")
        if kind != "text":
            values = self._values(lark, taken, name, shapes)
            written.extend(f"{value} {lark.text(closing)}" for value in values)
        if not written:
            raise ToolError(
                f"the parameter {name!r} of tool {taken.tool.name!r} has no value that this format can write"
            )
        gap = f"({lark.text(self.gap)})?" if self.gap else ""
        return f"{either(written)} {gap}".rstrip()

    def _values(self, lark: Lark, taken: ToolArguments, name: str, shapes: tuple[Shape, ...]) -> Iterator[str]:
        """The expressions of the key and the JSON that the schema allows."""
        if self.typed is None or "{type}" not in self.typed[1]:
            keyed = self.typed[1] if self.typed else self.keyed
            # Where a text may stand, a word of Python would be read as one.
            words = _python_words(shapes) if taken.kind(name) == "json" else []
            yield f"{self._key(lark, name, keyed)} {either([taken.json(lark, shapes), *words])}"
            return
        for one in _TYPES:
            left = of_type(shapes, one)
            if left:
                keyed = self.typed[1].replace("{type}", one)
                yield f"{self._key(lark, name, keyed)} {taken.json(lark, left)}"

    @property
    def _typed(self) -> tuple[str, ...] | None:
        """What may stand for ``keyed`` in a reply, that of texts first."""
        if self.typed is None:
            return None
        return (self.typed[0], *dict.fromkeys(self.typed[1].replace("{type}", one) for one in _TYPES))

    def _key(self, lark: Lark, name: str, keyed: str) -> str:
        return lark.text(self.key + name + keyed + self.value + self.lead)

    def _texts(self, lark: Lark, shapes: tuple[Shape, ...], kind: Kind) -> list[str]:
        """The expressions of the texts that the schema allows, with what closes them."""
        # A text that looks like JSON would be read as JSON where it may be either.
        bare: Bare = "no JSON" if kind == "either" and not self.typed else "no mark" if self.quote else "any"
        beside = types_of(shapes)
        return [text for rules in text_rules(shapes) for text in self._text(lark, rules, bare, beside)]

    def _text(self, lark: Lark, rules: TextRules, bare: Bare, beside: frozenset[str]) -> Iterator[str]:
        if self.quote:
            opened, closed = self.quote
            body = rules.lengths_before(closed) or rules.body(closed)
            if body is not None:
                yield f"{lark.text(opened)} {lark.up_to(closed, lark.terminal_of(body))} {lark.text(self.end)}"
        if rules.free and bare == "any":
            yield lark.up_to(self.end, "ANY")
            return
        body = rules.lengths_before(self.end, line=bool(self.lead), bare=bare)
        if body is not None:
            yield lark.up_to(self.end, lark.terminal_of(body))
        elif rules.words is not None or rules.patterns:
            body = rules.body(self.end, bare=bare, beside=beside)
            if body is not None:
                yield lark.up_to(("\n" if self.lead else "") + self.end, lark.terminal_of(body))


def _python_words(shapes: tuple[Shape, ...]) -> list[str]:
    """The words of Python that some templates write for any boolean and for null."""
    words = {"boolean": ['"True"', '"False"'], "null": ['"None"']}
    return [word for shape in shapes if isinstance(shape, Simple) for word in words[shape.type]]


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


__all__ = ["ValueCalls"]
