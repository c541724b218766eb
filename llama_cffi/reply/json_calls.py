"""Calls written as JSON objects that hold the name and the arguments, between tags."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass

from llama_cffi.reply.call_syntax import Calls
from llama_cffi.reply.event_buffer import EventBuffer, loads
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.json_text import read_string, read_value
from llama_cffi.reply.lark import Lark, either
from llama_cffi.reply.tool_arguments import ToolArguments


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the parts of a call. Without ``name``, the name itself is the key of the arguments."""

    name: str = "name"
    arguments: str = "arguments"
    id: str = "id"


def known_names(rules: ReplyRules) -> frozenset[str]:
    """Return the names of the tools of the rules."""
    return frozenset(tool.name for tool in rules.tools)


class CallObject:
    """Reads one JSON object that may be a call.

    ``names``: only these are names of calls; None takes any. ``firsts``: the first member must be one of these, so
    that other objects are known from the start; () takes any. The source must be recording, from the tag that opened
    the call on: what was recorded goes out as text when there is no call in it.
    """

    def __init__(
        self,
        source: InputBuffer,
        out: EventBuffer,
        keys: Keys,
        names: frozenset[str] | None = None,
        firsts: tuple[str, ...] = (),
    ) -> None:
        self._source = source
        self._firsts = firsts
        self._out = out
        self._keys = keys
        self._names = names
        self._name: str | None = None
        self._id = ""
        self._begun = False
        self._arguments: str | None = None
        """The arguments once they are complete."""

    def read(self) -> Generator[None, None, bool]:
        """Read the object at whose brace the source stands; False when it broke off or is no call."""
        whole = yield from self._members()
        if not self._begun and whole:
            if self._arguments is None and self._keys.name:
                self._arguments = "{}"
            if self._name is not None and self._arguments is not None and isinstance(loads(self._arguments), dict):
                self._begin()
                self._out.arguments(self._arguments)
        elif not self._begun and self._name and self._arguments is None and self._source.empty:
            # The reply was cut behind the name: a call that stays without an end, and no text.
            self._begin()
        if not self._begun:
            self._out.text(self._source.recorded())
            return False
        return self._arguments is not None and self._out.finish(self._id) and whole

    def _members(self) -> Generator[None, None, bool]:
        source, firsts = self._source, self._firsts
        yield from source.one_of("{")
        while True:
            yield from source.blank()
            if (yield from source.one_of("}")):
                return True
            key = yield from self._string()
            if firsts and key not in firsts:
                return False
            firsts = ()
            yield from source.blank()
            if key is None or not (yield from source.one_of(":")):
                return False
            yield from source.blank()
            if not (yield from self._member(key)):
                return False
            yield from source.blank()
            if not (yield from source.one_of(",")):
                return bool((yield from source.one_of("}")))

    def _member(self, key: str) -> Generator[None, None, bool]:
        keys = self._keys
        if not keys.name and self._name is None:
            return self._named(key) and (yield from self._value())
        if keys.name and key == keys.name and self._name is None:
            name = yield from self._string()
            return name is not None and self._named(name)
        if keys.name and key == keys.arguments and self._arguments is None:
            return (yield from self._value())
        if key == keys.id and (yield from self._source.peek()) == '"':
            self._id = (yield from self._string()) or ""
            return True
        return (yield from read_value(self._source, _ignore))

    def _named(self, name: str) -> bool:
        self._name = name
        return bool(name) and (self._names is None or name in self._names)

    def _value(self) -> Generator[None, None, bool]:
        """Read the arguments: shown as they come if the name is known, else remembered."""
        first = yield from self._source.peek()
        shown = first == "{" and self._name is not None
        if shown:
            self._begin()
        pieces: list[str] = []
        if not (yield from read_value(self._source, self._out.arguments if shown else pieces.append)):
            return False
        text = "".join(pieces)
        # Some models write the object as a text that holds JSON.
        inner = loads(text) if first == '"' else None
        self._arguments = inner if isinstance(inner, str) else text
        return True

    def _begin(self) -> None:
        self._source.recorded()
        self._out.begin(self._name or "", self._id)
        self._id = ""
        self._begun = True

    def _string(self) -> Generator[None, None, str | None]:
        pieces: list[str] = []
        if (yield from self._source.peek()) != '"' or not (yield from read_string(self._source, pieces.append)):
            return None
        value = loads("".join(pieces))
        return value if isinstance(value, str) else None


def _ignore(piece: str) -> None:
    """Leave out what a call may have besides name and arguments."""


_BLANK = re.compile(r"\s*")
_SEPARATORS = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """``open``, JSON, ``close``: one object, a list of them, or several without a list.

    ``lead`` and ``tail`` are what the model was trained to write inside of the tags, and ``between`` between two calls.
    """

    open: str
    close: str
    many: bool = False
    """Whether one pair of tags holds all calls of a reply."""
    lead: str = ""
    tail: str = ""
    between: str = "\n"
    keys: Keys = Keys()
    also: tuple[str, ...] = ()
    """Other texts that models open calls with."""
    first: str = ""
    last: str = ""
    """Members that each object begins and ends with; ``{n}`` is a number, ``{id}`` an identifier."""

    spaced: bool = False
    """Whether the template breaks lines inside of the objects."""

    @property
    def opens(self) -> tuple[str, ...]:
        """The tags that calls begin with."""
        return (self.open, *self.also)

    def read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, opened: str) -> Reading:
        """Read the objects between the tags."""
        yield from source.blank()
        in_list = opened.endswith("[") or bool((yield from source.one_of("[")))
        n_calls = 0
        while True:
            yield from source.run(_SEPARATORS if n_calls else _BLANK)
            if (yield from source.peek()) != "{":
                break
            if not (yield from CallObject(source, out, self.keys).read()):
                return
            n_calls += 1
            source.record()
            if not in_list and not self.many:
                break
        if in_list:
            yield from source.one_of("]")
        rest = source.recorded()
        if not n_calls:
            out.text(rest)
            return
        yield from source.blank()
        if self.close:
            yield from source.one_of(self.close)
        out.tag()

    def calls(self, lark: Lark, rules: ReplyRules) -> Calls:
        """Return one call, or as many as the rules allow."""
        one = either(self._object(lark, tool) for tool in rules.tools)
        first = f"{lark.text(self.lead)} {one}"
        last = lark.text(self.tail + self.close)
        if self.tail.endswith("\n"):
            last = f'{lark.text(self.tail[:-1])} ("\\n")? {lark.text(self.close)}'.strip()
        again = lark.rule("again", f"{lark.text(self.between)} {one}") if rules.parallel else ""
        if self.many:
            rest = f"{first} {again}* {last}" if again else f"{first} {last}"
            return Calls(((self.open, rest), *((tag, rest) for tag in self.also)))
        rest = lark.rule("call", f"{first} {last}")
        gap = f"({lark.text(self.between)})? " if self.between else ""
        more = f"{gap}{lark.text(self.open)} {rest}" if rules.parallel else ""
        return Calls(tuple((tag, rest) for tag in self.opens), more)

    def _object(self, lark: Lark, tool: ToolSpec) -> str:
        return object_rule(lark, tool, self.keys, self.first, self.last, spaced=self.spaced)


def object_rule(
    lark: Lark, tool: ToolSpec, keys: Keys, first: str = "", last: str = "", *, spaced: bool = False
) -> str:
    """Return the expression of the object that calls a tool; ``spaced``: with a line break where whitespace may
    stand."""
    arguments = ToolArguments(tool).json(lark)
    name = json.dumps(tool.name)
    begin = f'"{keys.name}": {name}, "{keys.arguments}": ' if keys.name else f"{name}: "
    if not spaced:
        return f"{lark.template('{' + first + begin)} {arguments} {lark.template(last + '}')}"
    space = "(" + lark.terminal("SPACE", r"/[ ]|\n[ ]{0,40}/") + ")?"
    written = f" {space} ".join(filter(None, map(lark.template, ("{ " + first + begin).split(" "))))
    return f"{written} {space} {arguments} {space} {lark.template(last + '}')}"


__all__ = ["CallObject", "JsonCalls", "Keys", "known_names", "object_rule"]
