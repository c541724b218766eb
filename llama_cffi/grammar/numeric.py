"""The numbers that schemas leave, computed exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.references import Node


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

    def holds(self, value: Fraction) -> bool:
        """Whether a number is one of these."""
        if self.integer and value.denominator != 1:
            return False
        if self.low is not None and (value < self.low or (self.low_exclusive and value == self.low)):
            return False
        if self.high is not None and (value > self.high or (self.high_exclusive and value == self.high)):
            return False
        return self.multiple_of is None or (value / self.multiple_of).denominator == 1


def number(value: float) -> Fraction:
    """A number of a JSON text, exactly as it is written."""
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(value)))


def numbers(atoms: list[Node], *, integer: bool) -> Iterator[Number]:
    """The numbers that all of the schemas leave. Raises :class:`SchemaError` for bounds that the engine blurs."""
    low: tuple[Fraction, bool] | None = None
    high: tuple[Fraction, bool] | None = None
    multiple: Fraction | None = None
    for node in atoms:
        for keyword in ("minimum", "exclusiveMinimum"):
            if keyword in node.value:
                bound = _bound(node, keyword), keyword != "minimum"
                low = bound if low is None else max(low, bound)
        for keyword in ("maximum", "exclusiveMaximum"):
            if keyword in node.value:
                bound = _bound(node, keyword), keyword == "maximum"
                high = bound if high is None else min(high, bound)
        if "multipleOf" in node.value:
            step = number(node.value["multipleOf"])
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
            for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
                if keyword in node.value and (part.low_exclusive or part.high_exclusive):
                    raise at(node.pointer, keyword, "is not supported for a range that is narrower than 1")
    yield part


def _bound(node: Node, keyword: str) -> Fraction:
    value = number(node.value[keyword])
    # The engine computes with 64-bit floats, and spells bounds out digit by digit.
    if abs(value) > 2**53 or 10**15 % value.denominator:
        raise at(node.pointer, keyword, "has more digits than the engine keeps to")
    return value


def _lcm(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator, b.numerator), math.gcd(a.denominator, b.denominator))


__all__ = ["Number", "number", "numbers"]
