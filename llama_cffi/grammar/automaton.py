"""Sets of texts as finite automata, for operations that regular expressions do not have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llama_cffi.grammar.pattern_syntax import ANY, Alt, Cat, Chars, Node, PatternError, Ranges, Repeat

MAX_STATES = 2_000
"""States of one automaton. The regular expression of a larger one would be too large for the engine, too."""
_MAX_NFA_STATES = 60_000
_MAX_WORK = 1_000_000
"""Edges looked at while one automaton is made: a bound on time, some seconds at most."""

_DEAD = -1
_Edge = tuple[int, int, int]


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over code points; it begins in state 0.

    ``edges[state]`` holds (first code point, last code point, next state), sorted and without overlaps. A character
    without an edge is refused. Raises :class:`PatternError` from every method that would make one that is too large.
    """

    edges: tuple[tuple[_Edge, ...], ...]
    accepting: frozenset[int]

    @classmethod
    def of(cls, node: Node) -> Automaton:
        """Return the texts that match an expression as a whole; it must hold no anchors."""
        return _determined(_Nfa(node)).minimal()

    @property
    def empty(self) -> bool:
        """Whether no text belongs to the set. Exact for what the methods here return."""
        return not self.accepting

    def contains(self, text: str) -> bool:
        """Return whether a text belongs to the set."""
        state = 0
        for sign in text:
            code = ord(sign)
            state = next((to for low, high, to in self.edges[state] if low <= code <= high), _DEAD)
            if state == _DEAD:
                return False
        return state in self.accepting

    def both(self, other: Automaton) -> Automaton:
        """Return the texts of both sets."""
        return self._combined(other, lambda a, b: a and b)

    def either(self, other: Automaton) -> Automaton:
        """Return the texts of one set or both."""
        return self._combined(other, lambda a, b: a or b)

    def without(self, other: Automaton) -> Automaton:
        """Return the texts of this set that are not of the other."""
        return self._combined(other, lambda a, b: a and not b)

    def complement(self) -> Automaton:
        """Return all other texts."""
        return EVERYTHING.without(self)

    def has_length(self, low: int, high: int | None) -> bool:
        """Return whether the set has a text of ``low`` to ``high`` characters."""
        # Where states can be after n characters repeats itself before long; a text that is longer than there are
        # states can be made shorter by fewer characters than there are states.
        here, n = {0}, 0
        last = low + len(self.edges) if high is None else min(high, low + len(self.edges))
        while n <= last and here:
            if n >= low and here & self.accepting:
                return True
            here = {to for state in here for _, _, to in self.edges[state]}
            n += 1
        return False

    def texts(self, limit: int) -> list[str] | None:
        """Return all texts of the set when there are at most ``limit``, else None."""
        found: list[str] = []
        todo = [("", 0)]
        while todo:
            text, state = todo.pop()
            if state in self.accepting:
                found.append(text)
            for low, high, to in self.edges[state]:
                todo.extend((text + chr(code), to) for code in range(low, min(high, low + limit) + 1))
            if len(found) > limit or len(todo) > 2 * limit or len(text) > len(self.edges):
                return None
        return sorted(found)

    def expression(self, max_size: int) -> Node:
        """Return a regular expression of the set, by elimination of states; it must not be empty."""
        if self.empty:
            raise PatternError("no text belongs to the set")
        return _eliminated(self, max_size)

    def _combined(self, other: Automaton, keep: Callable[[bool, bool], bool]) -> Automaton:
        index: dict[tuple[int, int], int] = {(0, 0): 0}
        pairs, edges = [(0, 0)], []
        for mine, others in pairs:
            out: list[_Edge] = []
            for low, high, a, b in _segments(self._from(mine), other._from(others)):
                if not keep(a != _DEAD, b != _DEAD) and not keep(a != _DEAD, False):
                    continue
                pair = (a, b)
                if pair not in index:
                    index[pair] = len(pairs)
                    pairs.append(pair)
                    if len(pairs) > 4 * MAX_STATES:
                        raise _too_large()
                out.append((low, high, index[pair]))
            edges.append(tuple(out))
        accepting = {i for (a, b), i in index.items() if keep(a in self.accepting, b in other.accepting)}
        return Automaton(tuple(edges), frozenset(accepting)).minimal()

    def _from(self, state: int) -> tuple[_Edge, ...]:
        return () if state == _DEAD else self.edges[state]

    def minimal(self) -> Automaton:
        """Return the smallest automaton of the same set, without states that lead nowhere."""
        alive = _alive(self)
        group = [(state in self.accepting) + 1 if state in alive else 0 for state in range(len(self.edges))]
        n_groups, work = -1, 0
        n_edges = sum(map(len, self.edges)) + len(self.edges)
        while True:
            work += n_edges
            if work > _MAX_WORK:
                raise _too_large()
            keys: dict[object, int] = {(): 0}
            new = []
            for state, edges in enumerate(self.edges):
                if state not in alive:
                    new.append(0)
                    continue
                key = group[state], _joined([(low, high, group[to]) for low, high, to in edges if group[to]])
                new.append(keys.setdefault(key, len(keys)))
            group = new
            if len(keys) == n_groups:
                break
            n_groups = len(keys)
        if 0 not in alive:
            return NOTHING
        return _renumbered(self, group)


NOTHING = Automaton(((),), frozenset())


def _alive(automaton: Automaton) -> set[int]:
    """The states from which the end can be reached."""
    before: list[list[int]] = [[] for _ in automaton.edges]
    for state, edges in enumerate(automaton.edges):
        for _, _, to in edges:
            before[to].append(state)
    alive, todo = set(automaton.accepting), list(automaton.accepting)
    while todo:
        for state in before[todo.pop()]:
            if state not in alive:
                alive.add(state)
                todo.append(state)
    return alive


def _renumbered(automaton: Automaton, group: list[int]) -> Automaton:
    """One state for each group, numbered as they are reached; group 0 is left out."""
    one_of = {number: state for state, number in reversed(list(enumerate(group)))}
    index, order, edges = {group[0]: 0}, [group[0]], []
    for number in order:
        out = []
        for low, high, to in automaton.edges[one_of[number]]:
            if not group[to]:
                continue
            if group[to] not in index:
                index[group[to]] = len(order)
                order.append(group[to])
            out.append((low, high, index[group[to]]))
        edges.append(_joined(out))
    if len(order) > MAX_STATES:
        raise _too_large()
    accepting = frozenset(i for number, i in index.items() if one_of[number] in automaton.accepting)
    return Automaton(tuple(edges), accepting)


def _joined(edges: list[_Edge]) -> tuple[_Edge, ...]:
    """The same edges with neighbors of one target made one; U+D7FF and U+E000 count as neighbors of nothing."""
    out: list[_Edge] = []
    for low, high, to in edges:
        if out and out[-1][2] == to and out[-1][1] + 1 == low:
            out[-1] = (out[-1][0], high, to)
        else:
            out.append((low, high, to))
    return tuple(out)


def _segments(a: tuple[_Edge, ...], b: tuple[_Edge, ...]) -> Iterator[tuple[int, int, int, int]]:
    """The stretches of code points on which both lists of edges are constant, and one of them leads somewhere."""
    cuts = sorted({cut for low, high, _ in (*a, *b) for cut in (low, high + 1)})
    i = j = 0
    for low, after in itertools.pairwise(cuts):
        while i < len(a) and a[i][1] < low:
            i += 1
        while j < len(b) and b[j][1] < low:
            j += 1
        to_a = a[i][2] if i < len(a) and a[i][0] <= low else _DEAD
        to_b = b[j][2] if j < len(b) and b[j][0] <= low else _DEAD
        if to_a != _DEAD or to_b != _DEAD:
            yield low, after - 1, to_a, to_b


class _Nfa:
    """Thompson's automaton of an expression: ``free[state]`` are the next ones without a character."""

    def __init__(self, node: Node) -> None:
        self.free: list[list[int]] = []
        self.edges: list[tuple[Ranges, int] | None] = []
        self.start = self.state()
        self.end = self.add(node, self.start)

    def state(self) -> int:
        if len(self.free) >= _MAX_NFA_STATES:
            raise _too_large()
        self.free.append([])
        self.edges.append(None)
        return len(self.free) - 1

    def add(self, node: Node, start: int) -> int:
        """Return the state behind a match of ``node`` that begins in ``start``."""
        if isinstance(node, Chars):
            here, end = self.state(), self.state()
            self.free[start].append(here)
            self.edges[here] = (node.ranges, end)
            return end
        if isinstance(node, Cat):
            for part in node.parts:
                start = self.add(part, start)
            return start
        if isinstance(node, Alt):
            ends = [self.add(option, start) for option in node.options]
            end = self.state()
            for one in ends:
                self.free[one].append(end)
            return end
        assert isinstance(node, Repeat)
        for _ in range(node.low):
            start = self.add(node.node, start)
        if node.high is None:
            loop, end = self.state(), self.state()
            self.free[start].append(loop)
            self.free[self.add(node.node, loop)].append(loop)
            self.free[loop].append(end)
            return end
        end = self.state()
        self.free[start].append(end)
        for _ in range(node.high - node.low):
            start = self.add(node.node, start)
            self.free[start].append(end)
        return end

    def closure(self, states: set[int]) -> frozenset[int]:
        """Return the states that can be reached without a character, of those the ones that matter."""
        seen, todo = set(states), list(states)
        while todo:
            for state in self.free[todo.pop()]:
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
        return frozenset(state for state in seen if self.edges[state] is not None or state == self.end)


def _determined(nfa: _Nfa) -> Automaton:
    first = nfa.closure({nfa.start})
    index, sets, edges, work = {first: 0}, [first], [], 0
    for states in sets:
        stretches = [
            (low, high, edge[1]) for state in states if (edge := nfa.edges[state]) is not None for low, high in edge[0]
        ]
        cuts = sorted({cut for low, high, _ in stretches for cut in (low, high + 1)})
        work += len(stretches) * 4 + len(cuts)
        at: dict[int, set[int]] = {cut: set() for cut in cuts}
        place = {cut: i for i, cut in enumerate(cuts)}
        for low, high, to in stretches:
            span = cuts[place[low] : place[high + 1]]
            work += len(span)
            for cut in span:
                at[cut].add(to)
        if work > _MAX_WORK:
            raise _too_large()
        out: list[_Edge] = []
        closures: dict[frozenset[int], int] = {}
        for low, after in itertools.pairwise(cuts):
            targets = frozenset(at[low])
            if not targets:
                continue
            if targets not in closures:
                closed = nfa.closure(set(targets))
                work += len(closed)
                if closed not in index:
                    index[closed] = len(sets)
                    sets.append(closed)
                    if len(sets) > 4 * MAX_STATES:
                        raise _too_large()
                closures[targets] = index[closed]
            out.append((low, after - 1, closures[targets]))
        edges.append(_joined(out))
    return Automaton(tuple(edges), frozenset(i for states, i in index.items() if nfa.end in states))


def _eliminated(automaton: Automaton, max_size: int) -> Node:
    """State elimination, the cheapest state first. States n and n + 1 are a new start and a new end."""
    n = len(automaton.edges)
    out: list[dict[int, Node]] = [{} for _ in range(n + 2)]
    into: list[set[int]] = [set() for _ in range(n + 2)]

    def add(a: int, b: int, node: Node) -> None:
        old = out[a].get(b)
        out[a][b] = node if old is None else _alt(old, node)
        into[b].add(a)

    for state, edges in enumerate(automaton.edges):
        for to in dict.fromkeys(to for _, _, to in edges):
            add(state, to, Chars(tuple((low, high) for low, high, target in edges if target == to)))
    add(n, 0, Cat(()))
    for state in automaton.accepting:
        add(state, n + 1, Cat(()))
    left = set(range(n))
    total = 0
    while left:
        state = min(left, key=lambda s: len(out[s]) * len(into[s]))
        left.remove(state)
        loop = out[state].pop(state, None)
        into[state].discard(state)
        middle: tuple[Node, ...] = () if loop is None else (Repeat(loop, 0, None),)
        for a in into[state]:
            before = out[a].pop(state)
            for b, behind in out[state].items():
                joined = _cat(before, *middle, behind)
                total += _size(joined, 4 * max_size)
                if total > 20 * max_size:
                    raise _too_large()
                add(a, b, joined)
        for b in out[state]:
            into[b].discard(state)
    return out[n][n + 1]


def _cat(*nodes: Node) -> Node:
    parts: list[Node] = []
    for node in nodes:
        parts.extend(node.parts if isinstance(node, Cat) else [node])
    return parts[0] if len(parts) == 1 else Cat(tuple(parts))


def _alt(a: Node, b: Node) -> Node:
    if isinstance(a, Chars) and isinstance(b, Chars):
        return Chars(tuple(sorted((*a.ranges, *b.ranges))))
    options: list[Node] = []
    for node in (a, b):
        options.extend(node.options if isinstance(node, Alt) else [node])
    return Alt(tuple(options))


def _size(node: Node, limit: int) -> int:
    """How many nodes an expression is written out to; parts are shared, so that counting must end, too."""
    todo, n = [node], 0
    while todo:
        n += 1
        if n > limit:
            raise _too_large()
        one = todo.pop()
        if isinstance(one, Cat):
            todo.extend(one.parts)
        elif isinstance(one, Alt):
            todo.extend(one.options)
        elif isinstance(one, Repeat):
            todo.append(one.node)
    return n


def _too_large() -> PatternError:
    return PatternError("the automaton of the patterns is too large")


EVERYTHING = Automaton((tuple((low, high, 0) for low, high in ANY.ranges),), frozenset({0}))

__all__ = ["EVERYTHING", "MAX_STATES", "NOTHING", "Automaton"]
