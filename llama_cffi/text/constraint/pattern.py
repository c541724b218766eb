"""Regular expressions of ECMA-262, as JSON Schema uses them: read, matched, and written for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"

MAX_SIZE = 20_000
"""Nodes of a pattern with its counted repetitions written out. Beyond, the engine would need seconds or give up."""


class PatternError(ValueError):
    """The pattern does not parse, or uses what no regular language has."""


@dataclass(frozen=True)
class Chars:
    """One character of these code points."""

    ranges: Ranges


@dataclass(frozen=True)
class Cat:
    """One after the other; nothing at all when empty."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """Any one of them; no text at all when empty."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """Between ``low`` and ``high`` times; ``high`` None is without end."""

    node: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Anchor:
    """``^`` (start) or ``$``."""

    start: bool


Node: TypeAlias = "Chars | Cat | Alt | Repeat | Anchor"

_SURROGATES = (0xD800, 0xDFFF)


def _complement(ranges: Ranges) -> Ranges:
    out, at = [], 0
    for low, high in sorted((*ranges, _SURROGATES)):
        if low > at:
            out.append((at, low - 1))
        at = max(at, high + 1)
    if at <= 0x10FFFF:
        out.append((at, 0x10FFFF))
    return tuple(out)


ANY = Chars(_complement(()))
EMPTY = Cat(())
_ANYTHING = Repeat(ANY, 0, None)
_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = (
    (9, 13), (32, 32), (160, 160), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_CLASSES = {
    "d": _DIGIT, "D": _complement(_DIGIT), "w": _WORD, "W": _complement(_WORD), "s": _SPACE, "S": _complement(_SPACE),
}  # fmt: skip
_NOT_NEWLINE = _complement(((10, 10), (13, 13), (0x2028, 0x2029)))
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def parse(self) -> Node:
        node = self.alternatives()
        if self.at < len(self.text):
            raise self.error("unmatched ')'")
        return node

    def error(self, what: str) -> PatternError:
        return PatternError(f"{what} at index {self.at}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, literal: str) -> bool:
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def alternatives(self) -> Node:
        self.depth += 1
        if self.depth > 100:
            raise self.error("more than 100 nested groups")
        options = [self.sequence()]
        while self.take("|"):
            options.append(self.sequence())
        self.depth -= 1
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.quantified())
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def quantified(self) -> Node:
        node = self.atom()
        bounds = self.quantifier()
        if bounds is None:
            return node
        if isinstance(node, Anchor):
            raise self.error("a repeated anchor")
        self.take("?")  # Lazy or not, the same texts match.
        if self.quantifier() is not None:
            raise self.error("nothing to repeat")
        return Repeat(node, *bounds)

    def quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return bounds
        if self.peek() != "{":
            return None
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : max(end, 0)].partition(",")
        if not (_is_count(low) and (not high or _is_count(high))):
            return None  # A brace that is no quantifier is itself.
        self.at = end + 1
        least, most = int(low), (int(high) if high else None) if comma else int(low)
        if most is not None and least > most:
            raise self.error("a quantifier whose numbers are out of order")
        return least, most

    def atom(self) -> Node:
        sign = self.peek()
        if sign in "*+?":
            raise self.error("nothing to repeat")
        self.at += 1
        if sign == "^":
            return Anchor(True)
        if sign == "$":
            return Anchor(False)
        if sign == ".":
            return Chars(_NOT_NEWLINE)
        if sign == "(":
            return self.group()
        if sign == "[":
            return self.char_class()
        if sign == "\\":
            found = self.escape(inside_class=False)
            return Chars(found) if isinstance(found, tuple) else _char(found)
        return _char(ord(sign))

    def group(self) -> Node:
        if self.take("?"):
            if self.take("<") and self.peek() not in ("=", "!"):
                end = self.text.find(">", self.at)
                if end < 0 or not self.text[self.at : end].isidentifier():
                    raise self.error("a group name that does not end")
                self.at = end + 1
            elif not self.take(":"):
                raise self.error("lookaround, which is not supported,")
        node = self.alternatives()
        if not self.take(")"):
            raise self.error("a missing ')'")
        return node

    def char_class(self) -> Node:
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.class_member()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self.class_member()
                if isinstance(low, tuple) or isinstance(high, tuple):
                    raise self.error("a range that ends in a class")
                if low > high:
                    raise self.error("a range that is out of order")
                ranges.append((low, high))
            else:
                ranges.extend(low if isinstance(low, tuple) else ((low, low),))
        inverse = _complement(tuple(ranges))
        return Chars(inverse if negated else _complement(inverse))

    def class_member(self) -> int | Ranges:
        sign = self.peek()
        if not sign:
            raise self.error("a missing ']'")
        self.at += 1
        return self.escape(inside_class=True) if sign == "\\" else ord(sign)

    def escape(self, *, inside_class: bool) -> int | Ranges:
        sign = self.peek()
        self.at += 1
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in _CONTROLS:
            return _CONTROLS[sign]
        if sign == "0" and not self.peek().isdecimal():
            return 0
        if sign == "b" and inside_class:
            return 8
        if sign == "c" and self.peek().isascii() and self.peek().isalpha():
            self.at += 1
            return ord(self.text[self.at - 1]) % 32
        if sign == "x":
            return self.hexadecimal(2)
        if sign == "u":
            return self.unicode()
        if sign == "-" or (sign.isascii() and sign and not sign.isalnum()):
            return ord(sign)
        raise self.error({"b": "a word boundary, which is not supported,", "": "a trailing backslash"}.get(
            sign, f"the escape \\{sign}, which is not supported,"))  # fmt: skip

    def unicode(self) -> int:
        if self.take("{"):
            end = self.text.find("}", self.at)
            value = self.hexadecimal(end - self.at)
            self.at += 1
            if value > 0x10FFFF:
                raise self.error("a code point that is too large")
            return value
        value = self.hexadecimal(4)
        if 0xD800 <= value < 0xDC00 and self.take("\\u"):
            low = self.hexadecimal(4)
            if 0xDC00 <= low < 0xE000:
                return 0x10000 + ((value - 0xD800) << 10) + low - 0xDC00
        if 0xD800 <= value < 0xE000:
            raise self.error("half of a surrogate pair")
        return value

    def hexadecimal(self, n: int) -> int:
        digits = self.text[self.at : self.at + max(n, 0)]
        if len(digits) != n or not digits or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise self.error("an escape without its hexadecimal digits")
        self.at += n
        return int(digits, 16)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _char(code: int) -> Chars:
    return Chars(((code, code),))


def _has_anchor(node: Node) -> bool:
    if isinstance(node, Anchor):
        return True
    if isinstance(node, Cat):
        return any(map(_has_anchor, node.parts))
    if isinstance(node, Alt):
        return any(map(_has_anchor, node.options))
    return isinstance(node, Repeat) and _has_anchor(node.node)


def _whole(node: Node, *, left: bool, right: bool) -> Node:
    """What a text must be as a whole for ``node`` to be found in it; anything may stand at the sides that are open."""
    if isinstance(node, Alt):
        return Alt(tuple(_whole(option, left=left, right=right) for option in node.options))
    parts = list(node.parts) if isinstance(node, Cat) else [node]
    while parts and parts[0] == Anchor(True):
        parts, left = parts[1:], False
    while parts and parts[-1] == Anchor(False):
        parts, right = parts[:-1], False
    if len(parts) == 1 and not isinstance(parts[0], (Anchor, Repeat)) and _has_anchor(parts[0]):
        return _whole(parts[0], left=left, right=right)
    if parts and isinstance(parts[0], (Alt, Cat)) and _has_anchor(parts[0]):
        parts[0], left = _whole(parts[0], left=left, right=False), False
    if parts and isinstance(parts[-1], (Alt, Cat)) and _has_anchor(parts[-1]):
        parts[-1], right = _whole(parts[-1], left=False, right=right), False
    if any(map(_has_anchor, parts)):
        raise PatternError("an anchor inside the pattern is not supported")
    return Cat((*[_ANYTHING] * left, *parts, *[_ANYTHING] * right))


def _size(node: Node) -> int:
    if isinstance(node, Cat):
        return 1 + sum(map(_size, node.parts))
    if isinstance(node, Alt):
        return 1 + sum(map(_size, node.options))
    if isinstance(node, Repeat):
        return 1 + _size(node.node) * max(1, node.low, node.high or 0)
    return 1


def _write(node: Node) -> str:
    if isinstance(node, Chars):
        return _write_chars(node.ranges)
    if isinstance(node, Cat):
        return "".join(map(_write, node.parts))
    if isinstance(node, Alt):
        return "(?:" + "|".join(map(_write, node.options)) + ")"
    if isinstance(node, Repeat):
        bounds = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high))
        return f"(?:{_write(node.node)})" + (bounds or f"{{{node.low},{'' if node.high is None else node.high}}}")
    raise AssertionError(node)


def _write_chars(ranges: Ranges) -> str:
    if ranges != ANY.ranges:
        # The engine takes a class that has all control characters for one that has the quote and the backslash too
        # (llguidance 1.9.1, in strings of JSON). No class has all of them without this one.
        ranges = _complement((*_complement(ranges), (1, 1)))
    if not ranges:
        raise PatternError("a character class that is empty, or U+0001 alone, is not supported")
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _write_char(ranges[0][0])
    members = (_write_char(low) + (f"-{_write_char(high)}" if high > low else "") for low, high in ranges)
    return "[" + "".join(members) + "]"


def _write_char(code: int) -> str:
    sign = chr(code)
    return sign if sign.isascii() and sign.isalnum() else f"\\u{{{code:x}}}"


def _ends(node: Node, text: str, starts: set[int]) -> set[int]:
    """Where a match that begins at one of ``starts`` may end. Time is bounded by the text and the pattern's size."""
    if isinstance(node, Chars):
        return {at + 1 for at in starts if at < len(text) and _inside(ord(text[at]), node.ranges)}
    if isinstance(node, Cat):
        for part in node.parts:
            starts = _ends(part, text, starts)
        return starts
    if isinstance(node, Alt):
        return set().union(*(_ends(option, text, starts) for option in node.options))
    if isinstance(node, Repeat):
        reached = starts
        for _ in range(node.low):
            reached = _ends(node.node, text, reached)
            if not reached:
                return reached
        found, n = set(reached), node.low
        while reached and (node.high is None or n < node.high):
            reached = _ends(node.node, text, reached) - found
            found |= reached
            n += 1
        return found
    raise AssertionError(node)


def _inside(code: int, ranges: Ranges) -> bool:
    return any(low <= code <= high for low, high in ranges)


@dataclass(frozen=True)
class Pattern:
    """A set of texts: those that match ``node`` as a whole. It holds no anchors."""

    node: Node

    @classmethod
    def parse(cls, source: str) -> Pattern:
        """The texts in which an ECMA-262 pattern is found, as JSON Schema's ``pattern`` means it.

        Raises :class:`PatternError` for syntax errors, for lookaround, back references, word boundaries and anchors
        inside the pattern, and for counted repetitions that write out to more than 20,000 nodes.
        """
        node = _whole(_Parser(source).parse(), left=True, right=True)
        if _size(node) > MAX_SIZE:
            raise PatternError(f"the pattern is too large: its repetitions write out to more than {MAX_SIZE} nodes")
        return cls(node)

    @classmethod
    def full(cls, source: str) -> Pattern:
        """The texts that match an ECMA-262 pattern as a whole; raises like :meth:`parse`."""
        node = _whole(_Parser(source).parse(), left=False, right=False)
        if _size(node) > MAX_SIZE:
            raise PatternError(f"the pattern is too large: its repetitions write out to more than {MAX_SIZE} nodes")
        return cls(node)

    @classmethod
    def words(cls, words: Sequence[str]) -> Pattern:
        """Exactly these texts."""
        return cls(Alt(tuple(Cat(tuple(_char(ord(sign)) for sign in word)) for word in words)))

    @classmethod
    def lengths(cls, low: int, high: int | None) -> Pattern:
        """The texts of ``low`` to ``high`` characters."""
        return cls(Repeat(ANY, low, high))

    @classmethod
    def none_of(cls, words: frozenset[str]) -> Pattern:
        """Every text but these."""
        return cls(_none_of(sorted(words)))

    @classmethod
    def any_of(cls, patterns: list[Pattern]) -> Pattern:
        """The texts of any of the sets."""
        return cls(Alt(tuple(pattern.node for pattern in patterns)))

    def matches(self, text: str) -> bool:
        """Whether the text belongs to the set."""
        return len(text) in _ends(self.node, text, {0})

    def source(self) -> str:
        """The pattern for the engine: anchored at both ends, in what ECMA-262 and Rust's regex crate share."""
        return f"^(?:{self.body()})$"

    def body(self) -> str:
        """The same without anchors."""
        return _write(self.node)


def _none_of(words: list[str]) -> Node:
    """The trie of the words, turned inside out. ``words`` are sorted, so that equal beginnings are neighbours."""
    options: list[Node] = [] if "" in words else [EMPTY]
    branches: dict[str, list[str]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    others = _complement(tuple((ord(first), ord(first)) for first in branches))
    options.append(Cat((Chars(others), _ANYTHING)))
    options.extend(Cat((_char(ord(first)), _none_of(rest))) for first, rest in branches.items())
    return Alt(tuple(options))


__all__ = ["Pattern", "PatternError"]
