"""What one rendering may compute: operations, characters and elements made, and time.

Every loop, macro, operator, method and filter of a template reports its work here before it does it. Limits grow with
the conversation, so that a long one is not refused, and a short one cannot be used to fill the memory.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextvars import ContextVar
from time import monotonic
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

MAX_SECONDS = 5.0
MAX_MADE = 64 * 2**20
"""Characters that all values made by a rendering may have; :data:`ELEMENT` for each element of a list."""
MAX_OPERATIONS = 8 * 10**6
"""Nodes of the syntax tree that a rendering may execute, and as much work as these inside of operations."""
ELEMENT = 64
MAX_NUMBER = 10**6
"""The largest width, count or precision that makes text."""
_MADE_PER_CHARACTER = 256
_OPERATIONS_PER_CHARACTER = 512
_LOOK_EVERY = 4096
_SCALARS = (int, float, bool, type(None))
_VIEWS = (KeysView, ValuesView, ItemsView, range)


class Budget:
    """The limits of one rendering, and what was used of them.

    ``size`` is the number of characters of the conversation; ``end`` the time, on the monotonic clock, at which the
    rendering is stopped; ``seconds`` is only said in the message. Methods raise :class:`SecurityError` when a limit is
    passed.
    """

    __slots__ = ("_end", "_look_at", "_made", "_max_made", "_max_operations", "_operations", "_seconds", "marks")

    def __init__(self, end: float, seconds: float, size: int = 0, marks: str = "") -> None:
        #: Characters that JSON must not escape: marks in the conversation.
        self.marks = marks
        self._end = end
        self._seconds = seconds
        self._operations = self._made = 0
        self._look_at = _LOOK_EVERY
        self._max_operations = MAX_OPERATIONS + _OPERATIONS_PER_CHARACTER * size
        self._max_made = MAX_MADE + _MADE_PER_CHARACTER * size

    def work(self, operations: int) -> None:
        """Count operations, and look at the time now and then."""
        self._operations += operations
        if self._operations > self._look_at:
            self._look_at = self._operations + _LOOK_EVERY
            if self._operations > self._max_operations:
                raise SecurityError(
                    f"the template takes too long: more than {MAX_OPERATIONS} operations, and "
                    f"{_OPERATIONS_PER_CHARACTER} more for each character of the conversation"
                )
            if monotonic() > self._end:
                raise SecurityError(f"the template takes too long: more than {self._seconds:g} s")

    def make(self, size: int) -> None:
        """Count characters or elements that are about to be made."""
        self._made += size
        if self._made > self._max_made:
            raise SecurityError(
                f"the template creates values of more than {MAX_MADE} characters or elements, and "
                f"{_MADE_PER_CHARACTER} more for each character of the conversation"
            )
        self.work(1 + (size >> 8))

    def search(self, text: str, part: Any) -> None:
        """Count the work of looking for a part in a text."""
        self.work(1 + (len(text) * min(len(part) if isinstance(part, str) else 1, 100) >> 7))

    def number(self, *values: Any) -> None:
        """Check numbers that say how long a text or a list becomes."""
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise SecurityError(f"the template creates a value of a size given by the number {_short(value)}")

    def integer(self, value: Any) -> Any:
        """Return the value; refuse an integer of more than 256 bits."""
        if isinstance(value, int) and value.bit_length() > 256:
            raise SecurityError("the template computes a number that is too large")
        return value

    def measure(self, value: Any) -> int:
        """Return how many characters the value has when it is written, quotes and separators roughly included.

        What is in several places counts as often as it is written.
        """
        size = n = 0
        stack = [value]
        while stack:
            one = stack.pop()
            kind = type(one)
            if kind is str:
                size += len(one)
            elif kind in _SCALARS:
                size += 8
            elif isinstance(one, Mapping):
                n += self._spend(2 * len(one))
                stack.extend(one.values())
                stack.extend(one)
            elif isinstance(one, (list, tuple, *_VIEWS)):
                n += self._spend(len(one))
                stack.extend(one)
            elif isinstance(one, str):
                size += len(one)
            elif isinstance(one, Namespace):
                raise SecurityError("the template writes a namespace")
            else:
                size += 64
        return size + 8 * (n + 1)

    def _spend(self, n: int) -> int:
        self.work(n)
        return n

    def depth(self, value: Any) -> int:
        """Return how deep lists and mappings are nested in the value."""
        depth = 0
        level = [value]
        while level:
            depth += 1
            below: list[Any] = []
            for one in level:
                if isinstance(one, (Mapping, list, tuple)):
                    self.work(len(one) + 1)
                    below.extend(one.values() if isinstance(one, Mapping) else one)
            level = below
        return depth

    def text(self, value: Any) -> str:
        """Return the value as text, as Jinja writes it."""
        if type(value) is str:
            return value
        if type(value) in _SCALARS:
            return str(value)
        if isinstance(value, (str, Undefined)):
            return str(value)
        # A repr escapes a character with ten at most.
        self.make(self.measure(value))
        text = str(value)
        self.make(len(text))
        return text

    def elements(self, value: Any) -> list[Any]:
        """Return the elements of an iterable as a list."""
        if isinstance(value, (str, Mapping, Sequence, *_VIEWS)):
            self.make(ELEMENT * len(value))
            return list(value)
        return list(self.each(value, ELEMENT))

    def each(self, values: Iterable[Any], size: int = 0) -> Iterator[Any]:
        """Iterate, counting every element."""
        for value in values:
            self.work(4)
            if size:
                self.make(size)
            yield value

    def compare(self, left: Any, right: Any) -> None:
        """Count the work of comparing two values."""
        if isinstance(left, str):
            if isinstance(right, str):
                self.work(min(len(left), len(right)) >> 7)
        elif isinstance(left, _CONTAINERS) and isinstance(right, _CONTAINERS):
            self.work(self.measure(left) + self.measure(right) >> 7)

    def hash(self, key: Any) -> None:
        """Count the work of looking a key up: a tuple does not remember its hash."""
        if isinstance(key, tuple):
            self.measure(key)


_CONTAINERS = (list, tuple, Mapping, *_VIEWS)
_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def current() -> Budget:
    """Return the budget of the rendering that is going on in this thread.

    Raises :class:`SecurityError` when there is none: the compiler tries to compute constants in advance, and leaves to
    the rendering what raises.
    """
    budget = _current.get()
    if budget is None:
        raise SecurityError("nothing is being rendered")
    return budget


class spending:
    """Context manager: this budget is the current one of the thread."""

    __slots__ = ("_budget", "_token")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> Budget:
        self._token = _current.set(self._budget)
        return self._budget

    def __exit__(self, *exception: object) -> None:
        _current.reset(self._token)


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 100 else f"of {number.bit_length()} bits"


__all__ = ["ELEMENT", "MAX_SECONDS", "Budget", "current", "spending"]
