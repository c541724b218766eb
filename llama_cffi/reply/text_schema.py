"""Texts that satisfy a schema, as expressions of the grammar: for formats that write a text without JSON's quotes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

from llama_cffi.errors import ToolError
from llama_cffi.grammar.formats import FORMATS, format_pattern
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.reply.event_buffer import loads
from llama_cffi.reply.format import ToolSpec
from llama_cffi.reply.lark import literal
from llama_cffi.reply.properties import target

Conjunction = tuple[Mapping[str, Any], ...]
"""Schemas without combining keywords, all of which a value satisfies."""

Bare = Literal["any", "no mark", "no JSON"]
"""How a text may begin: in any way, not with the first character of what ends it, or not like JSON."""

_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_REFUSED = ("not", "if", "dependentSchemas", "$dynamicRef", "$recursiveRef")
_MAX_ALTERNATIVES = 100


def alternatives(tool: ToolSpec, schema: Any, place: str, depth: int = 30) -> list[Conjunction]:
    """What a schema amounts to: a value satisfies it if it satisfies one of these.

    ``oneOf`` is taken for ``anyOf``, as pydantic means it. Raises :class:`ToolError` for other keywords that combine
    schemas, and for schemas that refer to themselves.
    """
    if schema is False:
        return []
    if not isinstance(schema, Mapping):
        return [()]
    if depth == 0:
        raise ToolError(f"{place} refers to itself, or is nested too deeply")
    for keyword in _REFUSED:
        if keyword in schema:
            raise ToolError(f"{place} has {keyword!r}, which this format cannot keep to")
    parts: list[list[Conjunction]] = [[({key: value for key, value in schema.items() if key not in _COMBINING},)]]
    if "$ref" in schema:
        parts.append(alternatives(tool, target(tool, schema["$ref"]), place, depth - 1))
    parts.extend(alternatives(tool, one, place, depth - 1) for one in schema.get("allOf", ()))
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            parts.append([found for one in schema[keyword] for found in alternatives(tool, one, place, depth - 1)])
    product = [tuple(itertools.chain(*choice)) for choice in itertools.islice(itertools.product(*parts), 101)]
    if len(product) > _MAX_ALTERNATIVES:
        raise ToolError(f"{place} has more than {_MAX_ALTERNATIVES} alternatives, which this format cannot keep to")
    return product


def is_text(choice: Conjunction) -> bool:
    """Whether a text may satisfy all of these."""
    for schema in choice:
        types = schema.get("type", "string")
        if "string" not in ([types] if isinstance(types, str) else types):
            return False
        if ("enum" in schema or "const" in schema) and not _words(schema):
            return False
    return True


def _words(schema: Mapping[str, Any]) -> list[str]:
    values = list(schema.get("enum", ())) if "enum" in schema else [schema["const"]]
    if "enum" in schema and "const" in schema:
        values = [value for value in values if value == schema["const"]]
    return [value for value in values if isinstance(value, str)]


class TextRules:
    """What the texts of one alternative must look like."""

    def __init__(self, choice: Conjunction, place: str) -> None:
        self.low = max((int(schema.get("minLength", 0)) for schema in choice), default=0)
        highs = [int(schema["maxLength"]) for schema in choice if "maxLength" in schema]
        self.high = min(highs) if highs else None
        words: list[str] | None = None
        self.patterns: list[Pattern] = []
        for schema in choice:
            if "enum" in schema or "const" in schema:
                words = [word for word in _words(schema) if words is None or word in words]
            if "pattern" in schema:
                self.patterns.append(_pattern(str(schema["pattern"]), place))
            if "format" in schema:
                self.patterns.append(_format(str(schema["format"]), place))
        self.words = None if words is None else [word for word in words if self._fits(word)]
        if self.words is not None:
            self.patterns, self.low, self.high = [], 0, None

    def _fits(self, word: str) -> bool:
        high = self.high is None or len(word) <= self.high
        return self.low <= len(word) and high and all(pattern.matches(word) for pattern in self.patterns)

    @property
    def free(self) -> bool:
        """Whether any text will do."""
        return self.words is None and not self.patterns and self.low == 0 and self.high is None

    def body(self, end: str, *, bare: Bare = "any") -> str | None:
        """The body of the terminal of these texts, as far as they do not hold ``end``; None for no text."""
        if self.words is not None:
            words = [word for word in self.words if end not in word and (bare != "no JSON" or not _is_json(word))]
            return f"/{Pattern.words(words).body()}/" if words else None
        parts = [f"/{pattern.body()}/" for pattern in self.patterns]
        if self.low or self.high is not None:
            parts.append(f"/(?s:.{_many(self.low, self.high)})/")
        if bare == "no JSON":
            parts.append(f"~{_JSON_LIKE}")
        elif bare == "no mark":
            parts.append(f"~/{literal(end[0])}(?s:.*)/")
        return " & ".join((*parts, f"~/(?s:.*){literal(end)}(?s:.*)/"))

    def lengths_before(self, end: str, *, line: bool = False, bare: Bare = "any") -> str | None:
        """The body of the terminal of the texts before the first ``end``, where nothing but their length counts; None
        where more does. With ``line``, a line break in front of ``end`` is none of the text; ``bare`` says more of how
        it may begin.

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
            first = rf"(?:[^\s\x22\[{{\-0-9tfn{mark}]|t[^r{mark}]|f[^a{mark}]|n[^u{mark}])"
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


def _is_json(text: str) -> bool:
    return text.strip() == "null" or loads(text) is not None


def _many(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def _pattern(source: str, place: str) -> Pattern:
    try:
        return Pattern.parse(source)
    except PatternError as error:
        raise ToolError(f"{place} has the pattern {source!r}, which this format cannot keep to: {error}") from None


def _format(name: str, place: str) -> Pattern:
    found = format_pattern(name)
    if found is None:
        raise ToolError(f"{place} has the format {name!r}, which cannot be kept to; only {', '.join(FORMATS)} can")
    return found


__all__ = ["Conjunction", "TextRules", "alternatives", "is_text"]
