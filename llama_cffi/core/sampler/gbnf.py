"""What a GBNF grammar would cost llama.cpp, found out before llama.cpp sees it.

Its parser recurses for each parenthesis and copies what is repeated, without a bound. The text is read here as far as
that takes: what does not parse is left to llama.cpp, whose error names the place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llama_cffi.core.sampler.gbnf_paths import MAX_PLACES, Element, Rules, check_left_recursion, check_paths, check_walk
from llama_cffi.errors import GrammarError

MAX_BYTES = 4_000_000
MAX_NESTING = 1_000
MAX_RULES = 50_000
"""Rules after each group and each repetition has become one."""
MAX_ELEMENTS = 2_000_000
"""Characters, ranges and references of all rules, with every repetition written out."""
_MAX_REPEATED = 2_000
"""A greater minimum is an error to llama.cpp."""
_WRITTEN_OUT = 64
"""Repetitions that are followed one by one; more of them are taken for this many."""

_TOKEN = re.compile(
    rb"""
    (?P<space>[ \t\r\n]+|\#[^\r\n]*)
    | (?P<literal>"(?:[^"\\]|\\.)*")
    | (?P<range>\[(?:[^\]\\]|\\.)*\])
    | (?P<token>!?<[^>]*>)
    | (?P<define>[a-zA-Z0-9-]+[ \t]*(?:\#[^\r\n]*)?::=)
    | (?P<name>[a-zA-Z0-9-]+)
    | (?P<repeat>[*+?]|\{[ \t\r\n]*(?P<low>[0-9]+)[ \t\r\n]*(?P<comma>,[ \t\r\n]*(?P<high>[0-9]*)[ \t\r\n]*)?\})
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class GrammarSize:
    """Sizes of a grammar as llama.cpp holds it."""

    n_rules: int
    n_elements: int
    nesting: int
    n_named: int
    """Rules that the text defines."""
    n_repeats: int
    """Repetitions that it writes, each counted once."""

    @property
    def stack(self) -> int:
        """Bytes of stack that suffice to parse it and to look for left recursion."""
        return (256 << 10) + (2 << 10) * self.nesting + (1 << 10) * self.n_rules


@dataclass(slots=True)
class _Open:
    """A rule or a group that is being read."""

    name: Element
    size: int = 0
    """Elements of the item that came last, as llama.cpp holds them."""
    start: int = 0
    """Where that item begins in the alternative."""
    alternatives: list[list[Element]] = field(default_factory=lambda: [[]])


class _Reader:
    def __init__(self, text: bytes) -> None:
        self.text = text
        self.rules: Rules = {}
        self.open: list[_Open] = []
        self.n_made = self.n_elements = self.nesting = self.n_named = self.n_repeats = 0

    def read(self) -> GrammarSize:
        for found in _TOKEN.finditer(self.text):
            kind, text = found.lastgroup, found[0]
            if kind == "define":
                self.n_named += 1
                self._begin(text.split(b":")[0].split(b"#")[0].strip().decode())
            elif not self.open:
                continue
            elif kind == "literal":
                self._item([b"=" + one for one in _characters(text[1:-1])], size=len(text) - 2)
            elif kind == "range":
                self._item([text], size=len(text) - 1)
            elif kind == "token":
                self._item([text])
            elif kind == "name":
                self._item([text.decode()])
            elif kind == "repeat":
                self._repeat(found)
            elif kind == "other":
                self._other(text)
            if self._is_too_large():
                self._check(found.start())
        return GrammarSize(len(self.rules), self.n_elements, self.nesting, self.n_named, self.n_repeats)

    def _begin(self, name: Element) -> None:
        self.open = [_Open(name)]
        self.rules[name] = self.open[0].alternatives

    def _made(self) -> int:
        self.n_made += 1
        return self.n_made

    def _item(self, elements: list[Element], size: int = 1) -> None:
        rule = self.open[-1]
        rule.size, rule.start = size, len(rule.alternatives[-1])
        rule.alternatives[-1] += elements
        self.n_elements += size

    def _other(self, text: bytes) -> None:
        if text == b"(":
            name = self._made()
            self.open.append(_Open(name))
            self.rules[name] = self.open[-1].alternatives
            self.nesting = max(self.nesting, len(self.open) - 1)
        elif text == b")" and len(self.open) > 1:
            self._item([self.open.pop().name])
        elif text == b".":
            self._item([b"."])
        elif text == b"|":
            rule = self.open[-1]
            rule.alternatives.append([])
            rule.size = rule.start = 0
            self.n_elements += 1

    def _repeat(self, found: re.Match[bytes]) -> None:
        self.n_repeats += 1
        low, high = _bounds(found)
        place = _place(self.text, found.start())
        if low > _MAX_REPEATED:
            raise GrammarError(f"{place}: {found[0].decode()} repeats more often than {_MAX_REPEATED} times")
        if high is not None and high < low:
            raise GrammarError(f"{place}: {found[0].decode()} repeats at least {low} times and at most {high}")
        rule = self.open[-1]
        n_optional = 1 if high is None else high - low
        self.n_elements += rule.size * (max(low, 1) - 1) + (rule.size + 2) * n_optional
        if self._is_too_large(n_optional):
            self._check(found.start(), n_optional)
        rule.size = rule.size * max(low, 1) + 1
        sequence = rule.alternatives[-1]
        item = sequence[rule.start :]
        sequence[rule.start :] = item * min(low, _WRITTEN_OUT)
        if high is None:
            name = self._made()
            self.rules[name] = [[*item, name], []]
            sequence.append(name)
            return
        rest: list[Element] = []
        for i in range(n_optional):
            name = self._made()
            # Beyond what is followed the rules only count.
            self.rules[name] = [[*item, *rest], []] if i < _WRITTEN_OUT else []
            rest = [name] if i < _WRITTEN_OUT else rest
        sequence += rest

    def _is_too_large(self, more: int = 0) -> bool:
        return (
            len(self.open) > MAX_NESTING + 1
            or len(self.rules) + more > MAX_RULES
            or self.n_elements > MAX_ELEMENTS
            or (bool(self.open) and len(self.open[-1].alternatives) > MAX_PLACES)
        )

    def _check(self, at: int, more: int = 0) -> None:
        for what, value, limit in (
            ("parentheses inside each other", len(self.open) - 1, MAX_NESTING),
            ("rules, groups and repetitions among them", len(self.rules) + more, MAX_RULES),
            ("elements with all repetitions written out", self.n_elements, MAX_ELEMENTS),
            ("alternatives in one rule", len(self.open[-1].alternatives), MAX_PLACES),
        ):
            if value > limit:
                raise GrammarError(f"{_place(self.text, at)}: the grammar has more than {limit} {what}")


def measure(text: bytes) -> GrammarSize:
    """Return the sizes of a grammar; raise :class:`GrammarError` with the reason for one that costs too much.

    Too much is what :func:`read_sizes` refuses, and what :func:`check_left_recursion` and :func:`check_paths` do.
    """
    reader, size = _read(text)
    check_left_recursion(reader.rules)
    check_paths(reader.rules)
    check_walk(reader.rules)
    return size


def read_sizes(text: bytes) -> GrammarSize:
    """Return the sizes of a grammar that something else than llama.cpp follows.

    Raises :class:`GrammarError` for a text above 4 MB, more than 1,000 parentheses inside each other, 50,000 rules or
    2,000,000 elements, and a repetition whose least number is above 2,000 or above its greatest.
    """
    return _read(text)[1]


def _read(text: bytes) -> tuple[_Reader, GrammarSize]:
    if len(text) > MAX_BYTES:
        raise GrammarError(f"the grammar has {len(text)} bytes; at most {MAX_BYTES} are taken")
    reader = _Reader(text)
    return reader, reader.read()


def _bounds(found: re.Match[bytes]) -> tuple[int, int | None]:
    """How often at least and at most, None without a bound."""
    if found["low"] is None:
        return {b"*": (0, None), b"+": (1, None), b"?": (0, 1)}[found[0]]
    low = _number(found["low"])
    return low, low if found["comma"] is None else _number(found["high"]) if found["high"].strip() else None


def _number(digits: bytes) -> int:
    return int(digits) if len(digits) < 20 else 10**20


def _characters(literal: bytes) -> list[bytes]:
    return re.findall(rb"\\(?:x..|u.{4}|U.{8}|.)|[^\\]", literal, re.DOTALL)


def _place(text: bytes, at: int) -> str:
    return f"line {text.count(10, 0, at) + 1}, byte {at - text.rfind(10, 0, at)}"


__all__ = ["MAX_BYTES", "MAX_ELEMENTS", "MAX_NESTING", "MAX_RULES", "GrammarSize", "measure", "read_sizes"]
