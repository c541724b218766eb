"""What a decode takes, by its number of tokens: measured while it is of use."""

from __future__ import annotations

from bisect import bisect_right, insort


class DecodeCost:
    """Seconds of a decode by its number of tokens.

    A few tokens more may cost nothing, where reading the weights is what takes time, or several times as much, where
    computing is: only measuring tells.
    """

    __slots__ = ("_seconds", "_sizes")

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._seconds: dict[int, float] = {}

    def add(self, n_tokens: int, seconds: float) -> None:
        """A decode of so many tokens took so long."""
        seconds = max(seconds, 1e-9)  # of a clock too coarse for it
        old = self._seconds.get(n_tokens)
        if old is None:
            insort(self._sizes, n_tokens)
        self._seconds[n_tokens] = seconds if old is None else blend(old, seconds)

    def knows(self, n_tokens: int) -> bool:
        """Whether a decode of as few tokens was measured."""
        return bool(self._sizes) and self._sizes[0] <= n_tokens

    def seconds(self, n_tokens: int) -> float:
        """What so many tokens may take, once any size was measured: on the line through the two sizes next to it.

        Less than the least one costs what that costs, and so does more while one size only is known: it is tried then.
        """
        found = self._seconds.get(n_tokens)
        if found is not None:
            return found
        sizes = self._sizes
        i = min(bisect_right(sizes, n_tokens), len(sizes) - 1)
        if i == 0:
            return self._seconds[sizes[0]]
        low, high = sizes[i - 1], sizes[i]
        first, last = self._seconds[low], self._seconds[high]
        if n_tokens > high:
            return last + max(0.0, last - first) * (n_tokens - high) / (high - low)
        return first + (last - first) * (n_tokens - low) / (high - low)


def blend(old: float, new: float) -> float:
    """A running estimate of seconds: what disturbs a measurement makes it longer, so it falls faster than it rises."""
    return (old + new) / 2 if new < old else old + (min(new, 2 * old) - old) / 8


__all__ = ["DecodeCost", "blend"]
