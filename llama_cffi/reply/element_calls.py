"""Calls written as nested elements, an object's members and a list's items each in tags: MiniMax M3."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from llama_cffi.errors import ToolError
from llama_cffi.grammar.numeric import Number
from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.shapes import Array, Object, Shape, Simple, State, Text, Values
from llama_cffi.reply.call_syntax import Calls
from llama_cffi.reply.event_buffer import EventBuffer, loads
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.header_calls import skip
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.lark import Lark, either, literal
from llama_cffi.reply.tool_arguments import ToolArguments

_NAME = re.compile(r"[A-Za-z0-9_.\-]*")
_KEY = re.compile(r"[^<>\n\"]*")
_WRITTEN_KEY = r'[^<>\n"]+'
_ITEM = "item"
_ALL = frozenset({"text", "scalar", "array", "object"})

Places = tuple[State, ...]
"""States of which one holds."""


class _Schema:
    """The parameters of a tool as shapes."""

    def __init__(self, taken: ToolArguments) -> None:
        self._form = taken.form
        self.root: Places = (self._form.root,)

    def shapes(self, places: Places) -> list[Shape] | None:
        """Return what may stand at a place; None for anything."""
        if any(not state for state in places):
            return None
        return [shape for state in places for shape in self._form.shapes(state)]

    def kinds(self, places: Places) -> frozenset[str]:
        """Return in which ways a value there may be written."""
        shapes = self.shapes(places)
        return _ALL if shapes is None else frozenset(kind for shape in shapes for kind in _kinds(shape))

    def member(self, places: Places, name: str) -> Places:
        """Return the places of a property."""
        shapes = self.shapes(places)
        objects = [shape for shape in shapes or () if isinstance(shape, Object)]
        return tuple(one.properties[name] for one in objects if name in one.properties) or (frozenset(),)

    def item(self, places: Places, i: int) -> Places:
        """Return the places of an item."""
        arrays = [shape for shape in self.shapes(places) or () if isinstance(shape, Array)]
        found = [one.prefix[i] if i < len(one.prefix) else one.rest for one in arrays]
        return tuple(state for state in found if state is not None) or (frozenset(),)


def _kinds(shape: Shape) -> Iterable[str]:
    if isinstance(shape, Values):
        names: dict[type, str] = {str: "text", list: "array", dict: "object"}
        return {names.get(type(value), "scalar") for value in shape.values}
    return {"text" if isinstance(shape, Text) else "array" if isinstance(shape, Array) else "object"
            if isinstance(shape, Object) else "scalar"}  # fmt: skip


def _known(tool: ToolSpec | None) -> _Schema | None:
    """Return the schema of a tool; None when there is none that can be read."""
    try:
        return None if tool is None else _Schema(ToolArguments(tool))
    except (ToolError, TypeError, ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class ElementCalls:
    """A section of calls; ``mark`` stands before each tag of a call and of its arguments."""

    mark: str
    section: str = "tool_call"

    @property
    def opens(self) -> tuple[str, ...]:
        """The tags that calls begin with; models leave out that of the section."""
        return (f"{self.mark}<{self.section}>", f'{self.mark}<invoke name="')

    # -- reading

    def read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, opened: str) -> Reading:
        """Read one call."""
        if opened != self.opens[1]:
            yield from source.blank()
            if not (yield from source.one_of(self.opens[1])):
                out.text(source.recorded())
                return
        name = yield from source.run(_NAME)
        if not name or not (yield from source.one_of('">')):
            out.text(source.recorded())
            return
        source.recorded()
        out.begin(name)
        schema = _known(next((tool for tool in rules.tools if tool.name == name), None))
        ended = f"{self.mark}</invoke>"
        if (yield from self._members(source, out, schema, schema.root if schema else (), ended)) and out.finish():
            yield from skip(source, (ended, f"{self.mark}</{self.section}>"))
            out.tag()

    def _members(
        self, source: InputBuffer, out: EventBuffer, schema: _Schema | None, places: Places, close: str, first: str = ""
    ) -> Generator[None, None, bool]:
        """Read elements up to ``close`` as an object; ``first`` is the name of one whose tag was read."""
        out.arguments("{")
        n, key = 0, first
        while True:
            if not key:
                yield from source.blank()
                found = yield from source.one_of(close, f"{self.mark}<")
                if found == close:
                    out.arguments("}")
                    return True
                key = (yield from source.run(_KEY)) if found else ""
                if not key or not (yield from source.one_of(">")):
                    return False
            out.arguments((", " if n else "") + json.dumps(key, ensure_ascii=False) + ": ")
            inner = schema.member(places, key) if schema else ()
            if not (yield from self._value(source, out, schema, inner, f"{self.mark}</{key}>")):
                return False
            n, key = n + 1, ""

    def _items(
        self, source: InputBuffer, out: EventBuffer, schema: _Schema | None, places: Places, close: str
    ) -> Generator[None, None, bool]:
        """Read items up to ``close``; the tag of the first was read."""
        out.arguments("[")
        n = 0
        while True:
            inner = schema.item(places, n) if schema else ()
            if not (yield from self._value(source, out, schema, inner, f"{self.mark}</{_ITEM}>")):
                return False
            n += 1
            yield from source.blank()
            found = yield from source.one_of(close, f"{self.mark}<{_ITEM}>")
            if not found:
                return False
            if found == close:
                out.arguments("]")
                return True
            out.arguments(", ")

    def _value(
        self, source: InputBuffer, out: EventBuffer, schema: _Schema | None, places: Places, close: str
    ) -> Generator[None, None, bool]:
        kinds = schema.kinds(places) if schema else _ALL
        pieces: list[str] = []
        if kinds != {"text"}:
            pieces.append((yield from source.blank()))
            found = yield from source.one_of(close, f"{self.mark}<")
            if found == close:
                empty = '""' if "text" in kinds else "[]" if "array" in kinds else "{}"
                out.arguments(empty)
                return True
            if found:
                key = yield from source.run(_KEY)
                if not key or not (yield from source.one_of(">")):
                    return False
                if key == _ITEM and "array" in kinds:
                    return (yield from self._items(source, out, schema, places, close))
                return (yield from self._members(source, out, schema, places, close, key))
            if not (yield from source.until((close,), pieces.append)):
                return False
            text = "".join(pieces)
            bare = text.strip()
            value = loads(bare)
            # Of what may be a text, only what can be nothing else is JSON.
            other = "scalar" in kinds or isinstance(value, (dict, list)) or "text" not in kinds
            is_json = bare == "null" or (value is not None and other)
            out.arguments(bare if is_json else json.dumps(text, ensure_ascii=False))
            return True
        out.arguments('"')
        done = yield from source.until((close,), lambda text: out.arguments(json.dumps(text, ensure_ascii=False)[1:-1]))
        if done:
            out.arguments('"')
        return bool(done)

    # -- grammar

    def calls(self, lark: Lark, rules: ReplyRules) -> Calls:
        """Return the tools' names, and their arguments in the order of their schemas."""
        one = lark.rule("call", either(_Writer(self.mark, lark, tool).call() for tool in rules.tools))
        opened = self.opens[1]
        more = f" ({lark.text(opened)} {one})*" if rules.parallel else ""
        closed_ = lark.text(f"{self.mark}</{self.section}>")
        return Calls(
            ((self.opens[0], f"{lark.text(chr(10) + opened)} {one}{more} {closed_}"), (opened, f"{one}{more}"))
        )


class _Writer:
    """Writes the grammar of the calls of one tool."""

    def __init__(self, mark: str, lark: Lark, tool: ToolSpec) -> None:
        self._mark, self._lark, self._tool = mark, lark, tool
        self._taken = ToolArguments(tool)
        self._schema = _Schema(self._taken)
        self._rules: dict[State, str] = {}

    def call(self) -> str:
        """Return the expression of a call behind the tag before its name."""
        bodies = either(self._members(one) for one in self._taken.one_by_one())
        name, end = self._lark.text(f'{self._tool.name}">'), self._lark.text(f"{self._mark}</invoke>\n")
        return f"{name} {bodies} {end}"

    def _members(self, shape: Object) -> str:
        parts = []
        for name, state in shape.properties.items():
            self._taken.check_name(name, _WRITTEN_KEY)
            element = self._lark.rule("element", self._element(name, state))
            parts.append(element if name in shape.required else f"({element})?")
        return " ".join(parts) or '""'

    def _element(self, name: str, state: State) -> str:
        close = f"{self._mark}</{name}>"
        return f"{self._lark.text(f'{self._mark}<{name}>')} {either(self._values(state, close))}"

    def _values(self, state: State, close: str) -> list[str]:
        shapes = self._schema.shapes((state,))
        if shapes is None:
            return [self._lark.up_to(close, "ANY")]
        alone = self._schema.kinds((state,)) == {"text"}
        end = self._lark.text(close)
        found: list[str] = []
        for shape in shapes:
            if isinstance(shape, Text):
                found.append(self._text(shape, close, alone))
            elif isinstance(shape, Values):
                found.extend(f"{text} {end}" for value in shape.values for text in self._literal(value, alone))
            elif isinstance(shape, Simple):
                words = ["null"] if shape.type == "null" else ["true", "false"]
                found.append(f"{either(map(self._lark.text, words))} {end}")
            elif isinstance(shape, Number):
                found.append(f"{self._taken.json(self._lark, (shape,))} {end}")
            elif isinstance(shape, Array):
                found.append(f"{self._items(shape)} {end}")
            elif shape.open or shape.low > len(shape.required):
                # The names of two tags cannot be held to each other: such an object is written as JSON.
                found.append(f"{self._taken.json(self._lark, (shape,))} {end}")
            else:
                found.append(f"{self._nested(state, shape)} {end}")
        if not found:
            raise ToolError(f"tool {self._tool.name!r} has a parameter without a value that this format can write")
        return found

    def _nested(self, state: State, shape: Object) -> str:
        """Return the members of an object, as a rule that may refer to itself."""
        objects = [one for one in self._schema.shapes((state,)) or () if isinstance(one, Object)]
        if len(objects) > 1:
            return f"({self._members(shape)})"
        if state not in self._rules:
            self._rules[state] = name = self._lark.reserve("object")
            self._lark.define(name, self._members(shape))
        return self._rules[state]

    def _items(self, shape: Array) -> str:
        """Return the items in order: those that must be there, and then each only behind the one before it."""
        fixed = [self._lark.rule("element", self._element(_ITEM, state)) for state in shape.prefix]
        high = shape.high if shape.rest is not None else min(len(fixed), shape.high or len(fixed))
        fixed = fixed[:high]
        rest = ""
        if shape.rest is not None and (high is None or high > len(fixed)):
            one = self._lark.rule("element", self._element(_ITEM, shape.rest))
            low = max(shape.low - len(fixed), 0)
            rest = f"({one}){{{low},{'' if high is None else high - len(fixed)}}}"
        for i in reversed(range(len(fixed))):
            rest = f"{fixed[i]} {rest}".rstrip()
            rest = rest if i < shape.low else f"({rest})?"
        return rest or '""'

    def _text(self, shape: Text, close: str, alone: bool) -> str:
        parts = [self._lark.terminal_of(f"/{pattern.body()}/") for pattern in shape.patterns]
        if shape.low or shape.high is not None:
            parts.append(self._lark.terminal_of(f"/{Pattern.lengths(shape.low, shape.high).body()}/"))
        if not alone:
            # What looks like JSON, or begins with a tag, would be read as such. The first characters tell: while a text
            # is possible, the engine ends no number.
            mark = literal(self._mark[0])
            first = rf"[^\s\x22\[{{\-0-9tfn{mark}]|t[^r{mark}]|f[^a{mark}]|n[^u{mark}]"
            parts.append(self._lark.terminal_of(f"/(?:(?:{first})(?s:.*))?/"))
        if not parts:
            return self._lark.up_to(close, "ANY")
        body = parts[0] if len(parts) == 1 else self._lark.terminal_of(" & ".join(parts))
        return self._lark.up_to(close, body)

    def _literal(self, value: Any, alone: bool) -> Iterable[str]:
        """Return the expression of a value, none where it would be read as another one."""
        if isinstance(value, (dict, list)):
            pairs = value.items() if isinstance(value, dict) else ((_ITEM, item) for item in value)
            parts = []
            for name, inner in pairs:
                (written,) = tuple(self._literal(inner, alone=True)) or ('""',)
                parts.append(
                    f"{self._lark.text(f'{self._mark}<{name}>')} {written} {self._lark.text(f'{self._mark}</{name}>')}"
                )
            yield " ".join(parts) or '""'
        elif not isinstance(value, str):
            yield self._lark.text(json.dumps(value))
        elif self._mark not in value and (alone or (loads(value.strip()) is None and value.strip() != "null")):
            yield self._lark.text(value) or '""'


__all__ = ["ElementCalls"]
