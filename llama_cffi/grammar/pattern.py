"""Sets of texts given by regular expressions: as JSON Schema searches, matched, and written for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from llama_cffi.grammar.automaton import Automaton
from llama_cffi.grammar.pattern_syntax import (
    ANY,
    Alt,
    Anchor,
    Cat,
    Chars,
    Node,
    Parser,
    PatternError,
    Ranges,
    Repeat,
    char,
    complement,
)

MAX_SIZE = 20_000
"""Nodes of a pattern with its counted repetitions written out. Beyond, the engine would need seconds or give up."""


EMPTY = Cat(())
_ANYTHING = Repeat(ANY, 0, None)


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
    parts: list[Node] = list(node.parts) if isinstance(node, Cat) else [node]
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
    if left and parts:
        parts[0] = _least(parts[0])
    if right and parts:
        parts[-1] = _least(parts[-1])
    return Cat((*[_ANYTHING] * left, *parts, *[_ANYTHING] * right))


def _least(node: Node) -> Node:
    """What must be found where anything may stand beside it: of a repetition, the fewest times."""
    return Repeat(node.node, node.low, node.low) if isinstance(node, Repeat) and node.high != node.low else node


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
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _write_char(ranges[0][0])
    members = (_write_char(low) + (f"-{_write_char(high)}" if high > low else "") for low, high in ranges)
    return "[" + "".join(members) + "]"


def _writable(node: Node) -> Node | None:
    """The expression without what the engine cannot write; None when no text is left.

    The engine takes a class that has all control characters for one that has the quote and the backslash too
    (llguidance 1.9.1, in strings of JSON). Without U+0001, no class has all of them.
    """
    if isinstance(node, Chars):
        ranges = node.ranges if node == ANY else complement((*complement(node.ranges), (1, 1)))
        return Chars(ranges) if ranges else None
    if isinstance(node, Cat):
        parts = [_writable(part) for part in node.parts]
        left = [part for part in parts if part is not None]
        return Cat(tuple(left)) if len(left) == len(parts) else None
    if isinstance(node, Alt):
        options = [kept for option in node.options if (kept := _writable(option)) is not None]
        return Alt(tuple(options)) if options else None
    if isinstance(node, Repeat):
        inner = _writable(node.node)
        if inner is None:
            return EMPTY if node.low == 0 else None
        return Repeat(inner, node.low, node.high)
    return node


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
        """Return the texts in which an ECMA-262 pattern is found, as JSON Schema's ``pattern`` means it.

        Raises :class:`PatternError` for syntax errors, for lookaround, back references, word boundaries and anchors
        inside the pattern, and for counted repetitions that write out to more than 20,000 nodes.
        """
        node = _whole(Parser(source).parse(), left=True, right=True)
        if _size(node) > MAX_SIZE:
            raise PatternError(f"the pattern is too large: its repetitions write out to more than {MAX_SIZE} nodes")
        return cls(node)

    @classmethod
    def full(cls, source: str) -> Pattern:
        """Return the texts that match an ECMA-262 pattern as a whole; raises like :meth:`parse`."""
        node = _whole(Parser(source).parse(), left=False, right=False)
        if _size(node) > MAX_SIZE:
            raise PatternError(f"the pattern is too large: its repetitions write out to more than {MAX_SIZE} nodes")
        return cls(node)

    @classmethod
    def of(cls, automaton: Automaton, *, max_size: int = MAX_SIZE) -> Pattern:
        """Return the texts of an automaton that has some; :class:`PatternError` when it writes out too large."""
        node = automaton.expression(max_size)
        if _size(node) > max_size:
            raise PatternError(f"the pattern is too large: it writes out to more than {max_size} nodes")
        return cls(node)

    @classmethod
    def words(cls, words: Sequence[str]) -> Pattern:
        """Return exactly these texts."""
        return cls(Alt(tuple(Cat(tuple(char(ord(sign)) for sign in word)) for word in words)))

    @classmethod
    def lengths(cls, low: int, high: int | None) -> Pattern:
        """Return the texts of ``low`` to ``high`` characters."""
        return cls(Repeat(ANY, low, high))

    @classmethod
    def none_of(cls, words: frozenset[str]) -> Pattern:
        """Return every text but these."""
        return cls(_none_of(sorted(words)))

    def matches(self, text: str) -> bool:
        """Return whether the text belongs to the set."""
        return len(text) in _ends(self.node, text, {0})

    @property
    def automaton(self) -> Automaton:
        """The same set as an automaton; :class:`PatternError` when that is too large."""
        return _automaton(self.node)

    @property
    def empty(self) -> bool:
        """Whether no text of the set can be written for the engine."""
        return _writable(self.node) is None

    def source(self) -> str:
        """Return the pattern for the engine: anchored at both ends, in what ECMA-262 and Rust's regex crate share."""
        return f"^(?:{self.body()})$"

    def body(self) -> str:
        """The same without anchors; :class:`PatternError` for a set without texts."""
        node = _writable(self.node)
        if node is None:
            raise PatternError("no text matches the pattern")
        return _write(node)


@lru_cache(maxsize=256)
def _automaton(node: Node) -> Automaton:
    return Automaton.of(node)


def _none_of(words: list[str]) -> Node:
    """The trie of the words, turned inside out. ``words`` are sorted, so that equal beginnings are neighbors."""
    options: list[Node] = [] if "" in words else [EMPTY]
    branches: dict[str, list[str]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    others = complement(tuple((ord(first), ord(first)) for first in branches))
    options.append(Cat((Chars(others), _ANYTHING)))
    options.extend(Cat((char(ord(first)), _none_of(rest))) for first, rest in branches.items())
    return Alt(tuple(options))


__all__ = ["MAX_SIZE", "Pattern", "PatternError"]
