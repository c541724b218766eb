"""The numbers that schemas leave, computed exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from llama_cffi.grammar.document import Node
from llama_cffi.grammar.equality import exact
from llama_cffi.grammar.keywords import at

MAX_LISTED = 500
"""Numbers that are written out where the engine would not enforce a step."""
_POWERS = frozenset(Fraction(1, 10**n) for n in range(7))


@dataclass(frozen=True)
class Number:
    """Numbers between two bounds; an exclusive one does not belong itself."""

    integer: bool
    low: Fraction | None = None
    high: Fraction | None = None
    low_exclusive: bool = False
    high_exclusive: bool = False
    multiple_of: Fraction | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no such number."""
        if self.low is None or self.high is None:
            return False
        if self.multiple_of is not None:
            step = self.multiple_of
            first = math.floor(self.low / step) + 1 if self.low_exclusive else math.ceil(self.low / step)
            last = math.ceil(self.high / step) - 1 if self.high_exclusive else math.floor(self.high / step)
            return first > last
        return self.low > self.high or (self.low == self.high and (self.low_exclusive or self.high_exclusive))

    @property
    def uneven(self) -> bool:
        """Whether the step has two decimals or more, and is not one of 0.01, 0.001 and so on."""
        step = self.multiple_of
        return step is not None and 10 % step.denominator != 0 and step not in _POWERS

    def listed(self, limit: int) -> list[int | float] | None:
        """Return all of these numbers when they are at most ``limit`` multiples of a step, else None."""
        if self.low is None or self.high is None or self.multiple_of is None:
            return None
        step = self.multiple_of
        first = math.floor(self.low / step) + 1 if self.low_exclusive else math.ceil(self.low / step)
        last = math.ceil(self.high / step) - 1 if self.high_exclusive else math.floor(self.high / step)
        if last - first >= limit:
            return None
        found = (step * n for n in range(first, last + 1))
        return [value.numerator if value.denominator == 1 else float(value) for value in found]


Bound: TypeAlias = "tuple[Fraction, bool, str]"
"""A bound, whether it is exclusive, and the keyword that says it."""


def lower_bounds(node: Node) -> list[Bound]:
    """Return the bounds of a schema from below; ``exclusiveMinimum`` of draft 4 makes ``minimum`` an exclusive one."""
    return _bounds(node, "minimum", "exclusiveMinimum")


def upper_bounds(node: Node) -> list[Bound]:
    """Return the bounds of a schema from above."""
    return _bounds(node, "maximum", "exclusiveMaximum")


def _bounds(node: Node, plain: str, exclusive: str) -> list[Bound]:
    flag = node.value.get(exclusive)
    bounds = []
    if plain in node.value:
        bounds.append((exact(node.value[plain]), flag is True, plain))
    if flag is not None and not isinstance(flag, bool):
        bounds.append((exact(flag), True, exclusive))
    return bounds


def numbers(atoms: list[Node], *, integer: bool) -> Iterator[Number]:
    """Yield the numbers that all of the schemas leave. Raises :class:`SchemaError` for bounds that the engine blurs."""
    low: tuple[Fraction, bool] | None = None
    high: tuple[Fraction, bool] | None = None
    multiple: Fraction | None = None
    for node in atoms:
        for value, exclusive, keyword in lower_bounds(node):
            bound = _kept(node, value, keyword), exclusive
            low = bound if low is None else max(low, bound)
        for value, exclusive, keyword in upper_bounds(node):
            bound = _kept(node, value, keyword), not exclusive
            high = bound if high is None else min(high, bound)
        if "multipleOf" in node.value:
            step = exact(node.value["multipleOf"])
            multiple = step if multiple is None else _lcm(multiple, step)
            # The engine counts remainders: its automaton has a state for each, and it spells steps out as decimals.
            if multiple.numerator > 10_000 or 10**6 % multiple.denominator or 10**6 * multiple > 10**9:
                raise at(node.pointer, "multipleOf", "is too large or too fine for the engine")
    part = Number(
        integer,
        low and low[0],
        high and high[0],
        bool(low and low[1]),
        bool(high and not high[1]),
        multiple,
    )
    if part.integer:
        first = None if part.low is None else math.floor(part.low) + 1 if part.low_exclusive else math.ceil(part.low)
        last = None if part.high is None else math.ceil(part.high) - 1 if part.high_exclusive else math.floor(part.high)
        part = Number(
            True,
            None if first is None else Fraction(first),
            None if last is None else Fraction(last),
            multiple_of=None if multiple is None else Fraction(multiple.numerator),
        )
    if part.empty:
        return
    if not part.integer and part.low is not None and part.high is not None and part.high - part.low < 1:
        # The engine (llguidance 1.9.1) lets 0 through for numbers above 0 and below 0.5.
        for node in atoms:
            for _, exclusive, keyword in (*lower_bounds(node), *upper_bounds(node)):
                if exclusive and (part.low_exclusive or part.high_exclusive):
                    raise at(node.pointer, keyword, "is not supported for an open range that is narrower than 1")
    if part.uneven and part.listed(MAX_LISTED) is None and (part.low is not None or part.high is not None):
        # The engine takes the digits of 1.5 for those of a multiple of 0.25, and knows no 1.50 below a bound.
        node = next(node for node in atoms if "multipleOf" in node.value)
        raise at(
            node.pointer, "multipleOf", f"is not supported for this step with more than {MAX_LISTED} values in bounds"
        )
    yield part


def _kept(node: Node, value: Fraction, keyword: str) -> Fraction:
    # The engine computes with 64-bit floats, and spells bounds out digit by digit.
    if abs(value) > 2**53 or 10**15 % value.denominator:
        raise at(node.pointer, keyword, "has more digits than the engine supports")
    return value


def _lcm(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator, b.numerator), math.gcd(a.denominator, b.denominator))


__all__ = ["MAX_LISTED", "Number", "lower_bounds", "numbers", "upper_bounds"]
