"""The form of a tool's arguments as a grammar of a notation that is nearly JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from llama_cffi.errors import ToolError
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.shapes import Array, Number, Object, Shape, Simple, State, Values
from llama_cffi.reply.lark import Lark, either, literal
from llama_cffi.reply.notation import Notation
from llama_cffi.reply.text_rules import TextRules, text_rules
from llama_cffi.reply.tool_arguments import ToolArguments

_NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*"
_PLAIN_TEXT = r"/[^'\x22\\\x00-\x1f]*/"
"""Texts that may stand between quotes as they are."""


class NotationWriter:
    """Writes the rules of one tool. Raises :class:`ToolError` for what the notation cannot write."""

    def __init__(self, lark: Lark, notation: Notation, taken: ToolArguments) -> None:
        self._lark = lark
        self._notation = notation
        self._taken = taken
        self._definitions: dict[State, str] = {}

    def arguments(self) -> str:
        """Return the expression of the arguments, without brackets."""
        lists = []
        for shape in self._taken.one_by_one():
            members = self._members(shape, lambda name: self._key(name, self._notation.assign))
            lists.append(f"({members})?" if members and not shape.required else members)
        return lists[0] if len(lists) == 1 else either(lists)

    def _members(self, shape: Object, key: Callable[[str], str]) -> str:
        """One listed property or more in their order, with commas between them, those that are required in any case."""
        comma = self._lark.text(self._notation.comma)
        rules = [
            (name in shape.required, self._lark.rule("member", f"{key(name)} {self._value(state)}"))
            for name, state in shape.properties.items()
        ]
        choices = []
        for i, (required, rule) in enumerate(rules):
            behind = (f"{comma} {other}" if needed else f"({comma} {other})?" for needed, other in rules[i + 1 :])
            choices.append(" ".join((rule, *behind)))
            if required:
                break
        return self._lark.rule("members", either(choices)) if choices else ""

    def _key(self, name: str, assign: str) -> str:
        self._taken.check_name(name, _NAME)
        return self._lark.text(name + assign)

    def _value(self, state: State) -> str:
        shapes = self._taken.shapes(state)
        if not any(isinstance(shape, (Array, Object)) for shape in shapes):
            return self._union(shapes)
        # It may hold itself.
        name = self._definitions.get(state)
        if name is None:
            name = self._definitions[state] = self._lark.reserve("definition")
            self._lark.define(name, self._union(shapes))
        return name

    def _union(self, shapes: tuple[Shape, ...]) -> str:
        texts = map(self._text, text_rules(shapes))
        return either(dict.fromkeys((*texts, *(written for shape in shapes for written in self._written(shape)))))

    def _written(self, shape: Shape) -> Iterator[str]:
        """What a shape leaves beside texts."""
        if isinstance(shape, Values):
            yield from (self._constant(value) for value in shape.values if not isinstance(value, str))
        elif isinstance(shape, Simple):
            yield from map(self._constant, (True, False) if shape.type == "boolean" else (None,))
        elif isinstance(shape, Array):
            yield self._array(shape)
        elif isinstance(shape, Object):
            yield self._object(shape)
        elif isinstance(shape, Number):
            yield self._taken.json(self._lark, (shape,))

    def _constant(self, value: Any) -> str:
        if isinstance(value, str):
            return self._text(TextRules(words=(value,)))
        comma = self._lark.text(self._notation.comma)
        if isinstance(value, list):
            return f'"[" {f" {comma} ".join(map(self._constant, value))} "]"'
        if isinstance(value, dict):
            members = (f"{self._quoted_key(name)} {self._constant(inner)}" for name, inner in value.items())
            return f'"{{" {f" {comma} ".join(members)} "}}"'
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._lark.text(json.dumps(int(value) if value == int(value) else value))
        written = json.dumps(value)
        return self._lark.text(next((word for word, is_ in self._notation.words.items() if is_ == written), written))

    def _unwritable(self, value: Any) -> ToolError:
        return ToolError(f"this format cannot write {value!r}, a value of tool {self._taken.tool.name!r}")

    def _text(self, rules: TextRules) -> str:
        """A text in quotes."""
        lark = self._lark
        if self._notation.plain:
            quote = self._notation.plain[0]
            body = "ANY" if rules.free else rules.lengths_before(quote) or rules.body(quote)
            if body is None:
                raise self._unwritable((rules.words or ("",))[0])
            return f"{lark.text(quote)} {lark.up_to(quote, body if body == 'ANY' else lark.terminal_of(body))}"
        # Quotes and text are one lexeme: the quote alone would be one that a longer text in quotes swallows.
        if rules.words is not None:
            spelled = ((repr(word), json.dumps(word, ensure_ascii=False)) for word in rules.words)
            return either(map(lark.text, dict.fromkeys(itertools.chain.from_iterable(spelled))))
        if rules.patterns:
            text = lark.terminal_of(f"{rules.body(self._notation.escaped[0])} & {_PLAIN_TEXT}")
            return either(lark.terminal_of(f'"{quote}" {text} "{quote}"') for quote in ("'", '\\"'))
        many = _many(rules.low, rules.high)
        # A line break is written as it is or as an escape.
        inside = r"\\\x00-\x08\x0b-\x1f]|\\[\\'\x22nrt])"
        return either(lark.terminal_of(rf"/{quote}([^{quote}{inside}{many}{quote}/") for quote in ("'", r"\x22"))

    def _array(self, shape: Array) -> str:
        lark, low, high = self._lark, shape.low, shape.high
        first = [lark.rule("item", self._value(state)) for state in shape.prefix]
        comma = lark.text(self._notation.comma)
        behind = ""
        if shape.rest is not None and (high is None or high > len(first)):
            item = lark.rule("item", self._value(shape.rest))
            least, most = max(low - len(first), 0), None if high is None else high - len(first)
            if not first:
                items = f"{item} {_more(f'{comma} {item}', least - 1, None if most is None else most - 1)}"
                return f'"[" {items} "]"' if low else f'"[" ({items})? "]"'
            behind = _more(f"{comma} {item}", least, most)
        for i in range(len(first) - 1, -1, -1):
            one = f"{comma} {first[i]}" if i else first[i]
            behind = f"{one} {behind}".rstrip()
            if i >= low:
                behind = f"({behind})?"
        return f'"[" {behind} "]"'

    def _object(self, shape: Object) -> str:
        listed = self._members(shape, self._quoted_key)
        others = list(self._others(shape))
        if not others:
            return f'"{{" {listed if shape.required else f"({listed})?" * bool(listed)} "}}"'
        # Where others are counted, everything that is listed is required.
        n = len(shape.properties)
        least, most = max(shape.low - n, 0), None if shape.high is None else shape.high - n
        other, comma = self._lark.rule("other", either(others)), self._lark.text(self._notation.comma)
        alone = f"{other} {_more(f'{comma} {other}', least - 1, None if most is None else most - 1)}".rstrip()
        if most == 0:
            return f'"{{" {listed} "}}"'
        if shape.required:
            return f'"{{" {listed} {_more(f"{comma} {other}", least, most)} "}}"'
        if listed:
            return f'"{{" ({listed} ({comma} {other})* | {alone})? "}}"'
        return f'"{{" {alone} "}}"' if least else f'"{{" ({alone})? "}}"'

    def _others(self, shape: Object) -> Iterator[str]:
        """Properties that are not listed, as far as their names can be written."""
        listed = sorted(shape.properties.keys() | shape.absent)
        without = [f"~/({'|'.join(map(literal, listed))})/"] if listed else []
        for pattern, state in shape.patterns:
            if state is not None and self._has_names(pattern):
                yield f"{self._other_key([f'/{pattern.body()}/', *without])} {self._value(state)}"
        if shape.rest is not None:
            without += [f"~/{pattern.body()}/" for pattern, _ in shape.patterns]
            yield f"{self._other_key(without)} {self._value(shape.rest)}"

    def _has_names(self, pattern: Pattern) -> bool:
        try:
            return not Pattern.full(_NAME).automaton.both(pattern.automaton).empty
        except PatternError:
            return True

    def _other_key(self, conditions: list[str]) -> str:
        key = self._lark.terminal_of(" & ".join((f"/{_NAME}/", *conditions)))
        # One lexeme, as a key that is listed is one.
        if self._notation.plain:
            return self._lark.terminal_of(f'{key} ":"')
        return either(self._lark.terminal_of(f'"{quote}" {key} "{quote}: "') for quote in ("'", '\\"'))

    def _quoted_key(self, name: str) -> str:
        self._taken.check_name(name, _NAME)
        quotes = ("",) if self._notation.plain else ("'", '"')
        return either(self._lark.text(f"{one}{name}{one}:{' ' if one else ''}") for one in quotes)


def _more(rule: str, least: int, most: int | None) -> str:
    """A rule this often; the engine takes no repetition that is always empty."""
    return "" if most == 0 else f"({rule}){_many(max(least, 0), most)}"


def _many(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


__all__ = ["NotationWriter"]
