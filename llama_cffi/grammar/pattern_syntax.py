"""Regular expressions of ECMA-262: their syntax, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"


class PatternError(ValueError):
    """The pattern does not parse, or uses a feature beyond regular languages."""


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


def complement(ranges: Ranges) -> Ranges:
    """Return the code points outside of these ranges, surrogates left out; sorted and without overlaps."""
    out, at = [], 0
    for low, high in sorted((*ranges, _SURROGATES)):
        if low > at:
            out.append((at, low - 1))
        at = max(at, high + 1)
    if at <= 0x10FFFF:
        out.append((at, 0x10FFFF))
    return tuple(out)


ANY = Chars(complement(()))
_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = (
    (9, 13), (32, 32), (160, 160), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_CLASSES = {
    "d": _DIGIT, "D": complement(_DIGIT), "w": _WORD, "W": complement(_WORD), "s": _SPACE, "S": complement(_SPACE),
}  # fmt: skip
_NOT_NEWLINE = complement(((10, 10), (13, 13), (0x2028, 0x2029)))
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}


class Parser:
    """Reads one pattern; raises :class:`PatternError` with the place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def parse(self) -> Node:
        """Return the pattern as a tree."""
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
            return Chars(found) if isinstance(found, tuple) else char(found)
        return char(ord(sign))

    def group(self) -> Node:
        if self.take("?") and not self.take(":"):
            if self.text.startswith("<", self.at) and self.text[self.at + 1 : self.at + 2] not in ("=", "!"):
                end = self.text.find(">", self.at)
                if end < 0 or not self.text[self.at + 1 : end].isidentifier():
                    raise self.error("a group name that does not end")
                self.at = end + 1
            else:
                raise self.error(_unsupported_group(self.text[self.at :]))
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
        inverse = complement(tuple(ranges))
        return Chars(inverse if negated else complement(inverse))

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
        raise self.error(_OTHER_ESCAPES.get(sign, f"the escape \\{sign}, which is not supported,"))

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


def _unsupported_group(rest: str) -> str:
    """What it is that begins with ``(?`` and then ``rest``."""
    if rest.startswith(("=", "!", "<=", "<!")):
        return "lookaround, which is not supported,"
    if rest.startswith("P"):
        return "Python's syntax for named groups, which is not supported; write (?<name>...) or (...)"
    if rest.startswith(">"):
        return "an atomic group, which is not supported,"
    for begin, what in _OTHER_GROUPS.items():
        if rest.startswith(begin):
            return f"{what}, which is not supported,"
    if rest[:1].isalpha() or rest.startswith("-"):
        return "flags inside the pattern, which are not supported,"
    return "an unknown kind of group"


_OTHER_GROUPS = {
    "#": "a comment",
    "(": "a condition",
    "R": "recursion",
    "&": "recursion",
    "|": "a branch reset",
    "'": "a quoted name",
}
_OTHER_ESCAPES = {
    "": "a trailing backslash",
    **dict.fromkeys("bB", "a word boundary, which is not supported,"),
    **dict.fromkeys("123456789k", "a back reference, which is not supported,"),
    **dict.fromkeys("pP", "a Unicode property, which is not supported,"),
    **dict.fromkeys("AzZG", "an anchor of other languages, which is not supported; write ^ or $,"),
}


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def char(code: int) -> Chars:
    """Return one character."""
    return Chars(((code, code),))


__all__ = [
    "ANY",
    "Alt",
    "Anchor",
    "Cat",
    "Chars",
    "Node",
    "Parser",
    "PatternError",
    "Ranges",
    "Repeat",
    "char",
    "complement",
]
