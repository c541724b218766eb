"""Grammars for llguidance, put together from texts, tokens and the forms of JSON Schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from llama_cffi.grammar.form import Form
from llama_cffi.grammar.json_schema import json_expression
from llama_cffi.grammar.shapes import Shape

Token = Callable[[str], str]
"""Gives the expression of a text that may be a control token of the vocabulary: ``<[id]>``, or a Lark string."""


def quoted(text: str) -> str:
    """Return a text as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def regex(pattern: str) -> str:
    """Return a regular expression as Lark writes it."""
    return "/" + re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern) + "/"


def literal(text: str) -> str:
    """Return a regular expression that matches the text alone."""
    return "".join(char if char.isalnum() or char in " _<>,:;=\"'`" else f"\\x{{{ord(char):x}}}" for char in text)


_FIELDS = {"{n}": ("N", "/[0-9]|[1-9][0-9]/"), "{id}": ("ID", "/[A-Za-z0-9]{9}/")}


class Lark:
    """The rules of one grammar.

    ``controls`` are the texts that ``token`` knows as tokens of their own; wherever one stands in a text of the
    grammar, it is that token.
    """

    def __init__(self, token: Token, controls: Iterable[str]) -> None:
        self._token = token
        self._tokens = {text: token(text) for text in controls if token(text) != quoted(text)}
        by_length = sorted(self._tokens, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, by_length)) + ")") if by_length else None
        self._rules: dict[str, tuple[str, str]] = {}
        self._names: dict[str, str] = {}
        self.free = {"ANY"}
        """Terminals of texts that may be cut anywhere: the parts are such texts again."""
        self.terminal("ANY", "/(?s:.*)/")

    def text(self, text: str) -> str:
        """Return the expression of a text, its control tokens as tokens."""
        pieces = self._split.split(text) if self._split else [text]
        return " ".join(self._tokens.get(piece) or quoted(piece) for piece in pieces if piece)

    def has_token(self, text: str) -> bool:
        """Return whether one of the control tokens stands in a text."""
        return self._split is not None and self._split.search(text) is not None

    def template(self, text: str) -> str:
        """Return the expression of a text with ``{n}`` for a number and ``{id}`` for nine letters and digits."""
        parts = re.split(r"(\{n\}|\{id\})", text)
        return " ".join(self.terminal(*_FIELDS[part]) if part in _FIELDS else self.text(part) for part in parts).strip()

    def json(self, form: Form, shapes: tuple[Shape, ...] | None = None) -> str:
        """Return the rule of the JSON texts of a form, or of some shapes in it; raises as :func:`json_expression`."""
        return self.rule("json", json_expression(form, shapes))

    def terminal(self, name: str, body: str) -> str:
        """Name a regular expression; a name that is there already keeps its meaning."""
        self._rules.setdefault(name, ("", body))
        return name

    def terminal_of(self, body: str) -> str:
        """Return the name of the terminal with this body."""
        return self.rule("TEXT", body)

    def reserve(self, name: str) -> str:
        """Return the name of a rule that :meth:`define` gives a body later: one that refers to itself."""
        free = self._free(name)
        self._rules[free] = ("", "")
        return free

    def define(self, name: str, body: str) -> None:
        """Give a reserved rule its body."""
        self._rules[name] = ("", body)

    def rule(self, name: str, body: str, options: str = "") -> str:
        """Return the name of the rule with this body: ``name``, with a number where that is another rule's."""
        known = self._names.get(options + body)
        if known is None:
            known = self._names[options + body] = self._free(name)
            self._rules[known] = (options, body)
        return known

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._rules:
            number += 1
            free = f"{name}_{number}"
        return free

    def up_to(self, end: str, text: str) -> str:
        """Return the expression of a text that matches the terminal ``text``, and of the first ``end`` behind it.

        One lexeme for both: of two, the first would take as much as it can, and ``end`` with it.
        """
        spelled = self.rule("up_to", f"{text} {quoted(end)}", "[lazy]")
        token = self.text(end)
        if token == quoted(end):
            return spelled
        before, rest = self.split(end)
        if not before:
            return f"({spelled} | {text} {token})"
        # What is spelled in front of the token is part of the lexeme: else the text would take it.
        part = self.rule("up_to", f"{text} {quoted(before)}", "[lazy]")
        return f"({part}){'+' if text in self.free else ''} ({self.text(rest)} | {quoted(rest)})"

    def split(self, text: str) -> tuple[str, str]:
        """Return what stands in front of the first control token of a text, and the rest; ("", text) without one."""
        found = self._split.search(text) if self._split else None
        return (text[: found.start()], text[found.start() :]) if found else ("", text)

    def __str__(self) -> str:
        return "%llguidance {}\n" + "".join(
            f"{name}{options}: {body}\n" for name, (options, body) in self._rules.items()
        )


def either(choices: Iterable[str]) -> str:
    """Return the expression of one of several."""
    return "(" + " | ".join(choices) + ")"


__all__ = ["Lark", "Token", "either", "literal", "quoted", "regex"]
