"""In how many ways a grammar can go on, as llama.cpp follows them: each by itself.

A grammar in which many ways read the same characters takes time and memory without bound: ``"a"? "a"? "a"?`` and so
on reads eight letters in as many ways as eight of the items can be chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from llama_cffi.errors import GrammarError

Element = str | int | bytes
"""A rule's name, the number of a group or a repetition, or as bytes what reads one character."""
Rules = dict[Element, list[list[Element]]]

MAX_PLACES = 20_000
"""Places that the text may be at between two characters; llama.cpp compares each with all others."""
MAX_PATHS = 50_000
"""Ways to read ``_READ`` equal characters."""
MAX_WALK = 1_000_000
"""Ways to come to the rules that a rule may begin with."""
_READ = 8
_BUDGET = 200_000
"""Steps of the search: less than half a second. What it does not come to is allowed."""

_Stack = tuple[tuple[Element, int, int], ...]
"""Where the text is: rule, alternative and index of what is to be read, innermost last."""


class _Search:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._left = _BUDGET

    @property
    def spent(self) -> bool:
        return self._left <= 0

    def closure(self, start: _Stack) -> list[_Stack]:
        """Return the places at which a character is read, or the text has ended, from a place without reading."""
        rules, todo, seen, found = self._rules, [start], set[_Stack](), list[_Stack]()
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if len(seen) > MAX_PLACES:
                raise GrammarError(
                    f"the grammar can continue in more than {MAX_PLACES} ways at one place, from {_shown(start)}"
                )
            self._left -= 1 + len(stack) // 16
            if not stack:
                found.append(stack)
                continue
            rule, alternative, index = stack[-1]
            element = rules[rule][alternative][index]
            if isinstance(element, bytes):
                found.append(stack)
                continue
            below = self.after(stack)
            for i, sequence in enumerate(rules.get(element, ())):
                todo.append((*below, (element, i, 0)) if sequence else below)
        return found

    def after(self, stack: _Stack) -> _Stack:
        """Return the place behind the element that is to be read."""
        rule, alternative, index = stack[-1]
        if index + 1 < len(self._rules[rule][alternative]):
            return (*stack[:-1], (rule, alternative, index + 1))
        return stack[:-1]

    def reads(self, stack: _Stack) -> bytes:
        rule, alternative, index = stack[-1]
        element = self._rules[rule][alternative][index]
        assert isinstance(element, bytes)
        return element

    def check_from(self, start: _Stack) -> None:
        """Raise when there are too many ways to read the same element again and again."""
        first = [stack for stack in self.closure(start) if stack]
        for element, number in Counter(map(self.reads, first)).items():
            if number < 2:
                continue
            ways: Counter[_Stack] = Counter(stack for stack in first if self.reads(stack) == element)
            for _ in range(_READ):
                following: Counter[_Stack] = Counter()
                for stack, n in ways.items():
                    for place in self.closure(self.after(stack)):
                        if place and self.reads(place) == element:
                            following[place] += n
                    if self.spent:
                        break
                ways = following
                if sum(ways.values()) > MAX_PATHS:
                    raise GrammarError(
                        f"the grammar is too ambiguous: from {_shown(start)} it reads {element.decode()!r} again and "
                        f"again in more than {MAX_PATHS} ways; write x{{0,9}} for x? x? x? ..."
                    )
                if not ways or self.spent:
                    break


def check_left_recursion(rules: Rules) -> None:
    """Raise :class:`GrammarError` for a rule that can begin with itself and go on: what is to be read grows forever.

    llama.cpp looks for these, too, but not behind a rule that is empty only through another one.
    """
    begins, growing = _beginnings(rules)
    circle = _circles(begins)
    for name, element in growing:
        if circle[name] == circle[element]:
            raise GrammarError(f"left recursion: {_shown(((name, 0, 0),))} can begin with itself")


def check_walk(rules: Rules) -> None:
    """Raise :class:`GrammarError` for a grammar in which many ways to begin meet again: llama.cpp follows each.

    The grammar must be free of left recursion.
    """
    begins, _ = _beginnings(rules)
    calls: dict[Element, int] = {}
    for name in _finished(begins):
        calls[name] = 1 + sum(n * calls.get(other, 0) for other, n in begins[name].items())
        if calls[name] > MAX_WALK:
            raise GrammarError(
                f"the grammar is too ambiguous: {_shown(((name, 0, 0),))} begins in more than {MAX_WALK} ways"
            )


def _beginnings(rules: Rules) -> tuple[dict[Element, Counter[Element]], list[tuple[Element, Element]]]:
    """The rules that each rule may begin with, and those pairs of which something may follow the second."""
    empty = _empty_rules(rules)
    begins: dict[Element, Counter[Element]] = {}
    growing: list[tuple[Element, Element]] = []
    for name, alternatives in rules.items():
        begins[name] = Counter()
        for sequence in alternatives:
            for index, element in enumerate(sequence):
                if element in rules:
                    begins[name][element] += 1
                    if index + 1 < len(sequence):
                        growing.append((name, element))
                if element not in empty:
                    break
    return begins, growing


def _finished(edges: Mapping[Element, Iterable[Element]]) -> list[Element]:
    """The elements in an order in which each comes behind those that it leads to, but for circles."""
    order: list[Element] = []
    seen: set[Element] = set()
    for start in edges:
        todo = [(start, False)]
        while todo:
            name, left = todo.pop()
            if left:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                todo.append((name, True))
                todo += [(other, False) for other in edges[name] if other not in seen]
    return order


def _circles(edges: Mapping[Element, Iterable[Element]]) -> dict[Element, Element]:
    """A number for each element, equal for those that lead to each other (the algorithm of Kosaraju)."""
    order = _finished(edges)
    back: dict[Element, list[Element]] = {name: [] for name in edges}
    for name, others in edges.items():
        for other in others:
            back[other].append(name)
    found: dict[Element, Element] = {}
    for start in reversed(order):
        stack = [start]
        while stack:
            name = stack.pop()
            if name not in found:
                found[name] = start
                stack += back[name]
    return found


def _empty_rules(rules: Rules) -> set[Element]:
    """The rules that can be empty."""
    users: dict[Element, list[tuple[Element, int]]] = {}
    missing: dict[tuple[Element, int], int] = {}
    todo: list[Element] = []
    for name, alternatives in rules.items():
        for i, sequence in enumerate(alternatives):
            if any(isinstance(element, bytes) for element in sequence):
                continue
            missing[name, i] = len(sequence)
            for element in sequence:
                users.setdefault(element, []).append((name, i))
            if not sequence:
                todo.append(name)
    empty: set[Element] = set()
    while todo:
        name = todo.pop()
        if name in empty:
            continue
        empty.add(name)
        for user in users.get(name, ()):
            missing[user] -= 1
            if missing[user] == 0:
                todo.append(user[0])
    return empty


def check_paths(rules: Rules) -> None:
    """Raise :class:`GrammarError` for a grammar that can go on in too many ways, as far as a short search finds.

    The grammar must be free of left recursion.
    """
    search = _Search(rules)
    for name, alternatives in rules.items():
        for i, sequence in enumerate(alternatives):
            for index, element in enumerate(sequence):
                if not isinstance(element, bytes):
                    search.check_from(((name, i, index),))
                if search.spent:
                    return


def _shown(stack: _Stack) -> str:
    names = [place[0] for place in stack if isinstance(place[0], str)]
    return f"rule {names[-1]!r}" if names else "a group"


__all__ = ["MAX_PATHS", "MAX_PLACES", "Element", "Rules", "check_left_recursion", "check_paths", "check_walk"]
