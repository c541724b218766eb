"""Texts of a schema as terminals of the grammar: for formats that write a text without JSON's quotes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llama_cffi.grammar.pattern import Pattern
from llama_cffi.grammar.shapes import Shape, Text, Values
from llama_cffi.reply.event_buffer import loads
from llama_cffi.reply.lark import literal

Bare = Literal["any", "no mark", "no JSON"]
"""How a text may begin: in any way, not with the first character of what ends it, or not like JSON."""


_ANY_TYPE = frozenset({"array", "object", "number", "boolean", "null"})


@dataclass(frozen=True, slots=True)
class TextRules:
    """Texts: these ``words``, or without them those of ``low`` to ``high`` characters that match every pattern."""

    low: int = 0
    high: int | None = None
    patterns: tuple[Pattern, ...] = ()
    words: tuple[str, ...] | None = None

    @property
    def free(self) -> bool:
        """Whether any text will do."""
        return self.words is None and not self.patterns and self.low == 0 and self.high is None

    def body(self, end: str, *, bare: Bare = "any", beside: frozenset[str] = _ANY_TYPE) -> str | None:
        """Return the body of the terminal of these texts, as far as they do not hold ``end``; None for no text.

        Of texts that are not like JSON, none begins like a value of the types ``beside``: the engine must know at its
        beginning whether to read a text or a value.
        """
        if self.words is not None:
            words = [word for word in self.words if end not in word and (bare != "no JSON" or not _is_json(word))]
            return f"/{Pattern.words(words).body()}/" if words else None
        parts = [f"/{pattern.body()}/" for pattern in self.patterns]
        if self.low or self.high is not None:
            parts.append(f"/(?s:.{_many(self.low, self.high)})/")
        if bare == "no JSON":
            parts.extend((f"~{_JSON_LIKE}", f"/(?:{_not_beginning_like(beside, literal(end[0]))}(?s:.*))?/"))
        elif bare == "no mark":
            parts.append(f"~/{literal(end[0])}(?s:.*)/")
        return " & ".join((*parts, f"~/(?s:.*){literal(end)}(?s:.*)/"))

    def lengths_before(self, end: str, *, line: bool = False, bare: Bare = "any") -> str | None:
        """Return the body of the terminal of the texts before the first ``end``, where nothing but their length counts;
        None where more does. With ``line``, a line break in front of ``end`` is none of the text; ``bare`` says more of
        how it may begin.

        Of the texts that are long enough the engine needs only count the rest: the complement of "has ``end``
        somewhere" takes more expressions than it allows itself. So that no text is too short, its first characters
        are none that ``end`` or the line break begins with (but for the second character of ``end``, where one
        character is enough).
        """
        if self.words is not None or self.patterns:
            return None
        low, high = self.low, self.high
        stop, broken = (r"\n?", r"\n") if line else ("", "")
        mark = literal(end[0])

        def rest(n: int) -> str:
            return f"(?s:.{_many(0, None if high is None else max(high - n, 0))})"

        if bare == "no JSON":
            if low > 1 or (high is not None and high < 2):
                return None
            first = _not_beginning_like(_ANY_TYPE, mark)
            return f"/(?:{first}{rest(2)}){'?' if low == 0 else ''}{stop}/"
        if low == 0:
            return f"/{rest(0)}{stop}/" if bare == "any" or high == 0 else f"/(?:[^{mark}]{rest(1)})?{stop}/"
        forms = [f"/[^{mark}{broken}]{{{low}}}{rest(low)}{stop}/"]
        if low == 1 and (high is None or high > 1):
            if bare == "any":
                forms.append(f"/{mark}[^{literal(end[1])}{broken}]{rest(2)}{stop}/")
            if line:
                forms.append(f"/{broken}[^{mark}{broken}]{rest(2)}{stop}/")
        return forms[0] if len(forms) == 1 else f"({' | '.join(forms)})"


_JSON_LIKE = r"/\s*(?:[\[{\x22](?s:.*)|(?:true|false|null|-?[0-9][0-9.eE+-]*)\s*)/"
"""Texts that may be JSON."""


def _not_beginning_like(types: frozenset[str], mark: str) -> str:
    """An expression of one or two characters that none of these types begins with, nor a text in quotes."""
    words = [word for type_, of_type in _WORDS.items() if type_ in types for word in of_type]
    signs = "".join(sign for type_, sign in _SIGNS.items() if type_ in types)
    first = f"[^\\s\\x22{signs}{''.join(word[0] for word in words)}{mark}]"
    return "(?:" + "|".join([first, *(f"{word[0]}[^{word[1]}{mark}]" for word in words)]) + ")"


_SIGNS = {"array": r"\[", "object": "{", "number": r"\-0-9"}
_WORDS = {"boolean": ("tr", "fa"), "null": ("nu",)}
"""How the values of each type begin."""


def _is_json(text: str) -> bool:
    return text.strip() == "null" or loads(text) is not None


def _many(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def text_rules(shapes: Iterable[Shape]) -> list[TextRules]:
    """Return the texts that some shapes leave: the union of these."""
    shapes = tuple(shapes)
    values = (value for shape in shapes if isinstance(shape, Values) for value in shape.values)
    words = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    found = [TextRules(words=words)] if words else []
    found.extend(TextRules(shape.low, shape.high, shape.patterns) for shape in shapes if isinstance(shape, Text))
    return next(([rules] for rules in found if rules.free), found)


__all__ = ["Bare", "TextRules", "text_rules"]
