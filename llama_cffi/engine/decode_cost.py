"""The duration of a decode, by its number of rows and of prompt tokens."""

from __future__ import annotations

from bisect import bisect_right, insort


class _Size:
    """What is known of decodes of one number of rows."""

    __slots__ = ("last", "n", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.n = 1
        self.last = 0


class DecodeCost:
    """Seconds of a decode, learned from every one.

    A few rows more may cost nothing, where reading the weights is what takes time, or several times as much, where
    computing is, and with some kernels seven take longer than eight: only measuring tells. A row is a token with
    logits. Decodes of rows alone are known by their number; those with a piece of a prompt apart from them, by what the
    piece adds to its rows.
    """

    __slots__ = ("_alone", "_found", "_mixed", "_sizes", "n_measured", "prefill_rate")

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._found: dict[int, _Size] = {}
        self._alone: dict[int, float] = {}
        """Seconds of each token of a prompt in decodes without rows, by the length of the piece in bits."""
        self._mixed: dict[int, float] = {}
        """The same in decodes with rows: what is added to the seconds of the rows."""
        self.n_measured = 0
        """Decodes of rows that were measured."""
        self.prefill_rate = 0.0
        """Recent prompt tokens per second; 0 while that is unknown."""

    def add(self, n_tokens: int, seconds: float) -> None:
        """Record the duration of a decode with this many rows."""
        if seconds < _LEAST:
            seconds = _LEAST
        self.n_measured += 1
        size = self._found.get(n_tokens)
        if size is None:
            self._found[n_tokens] = size = _Size(seconds)
            # Last: whatever is listed was found, also when a signal handler raises in between.
            insort(self._sizes, n_tokens)
        else:
            size.n += 1
            size.seconds = blend(size.seconds, seconds)
        size.last = self.n_measured

    def add_prefill(self, n_rows: int, n_prefill: int, seconds: float) -> None:
        """Record the duration of a decode with this many rows and prompt tokens."""
        rate = n_prefill / max(seconds, _LEAST)
        self.prefill_rate = (self.prefill_rate + rate) / 2 if self.prefill_rate else rate
        if n_rows and self._sizes:
            seconds -= self.seconds(n_rows)
        table, size = self._mixed if n_rows else self._alone, n_prefill.bit_length()
        each = max(seconds, _LEAST) / n_prefill
        old = table.get(size)
        table[size] = each if old is None else (old + each) / 2

    @property
    def sizes(self) -> list[int]:
        """The numbers of rows that were measured, in order; not to be changed."""
        return self._sizes

    def n_samples(self, n_tokens: int) -> int:
        """Return how often a decode of exactly this many rows was measured."""
        size = self._found.get(n_tokens)
        return 0 if size is None else size.n

    def age(self, n_tokens: int) -> int:
        """Return how many decodes of rows were measured since one of exactly this many rows."""
        size = self._found.get(n_tokens)
        return self.n_measured - (0 if size is None else size.last)

    def knows(self, n_tokens: int) -> bool:
        """Return whether a decode of at most this many rows was measured."""
        return bool(self._sizes) and self._sizes[0] <= n_tokens

    def seconds(self, n_tokens: int) -> float:
        """Return the estimated seconds of a decode with this many rows, interpolated between measured sizes.

        A size below the smallest measured one is taken to cost as much as that one, and so is one above it while it is
        the only one.
        """
        found = self._found.get(n_tokens)
        if found is not None:
            return found.seconds
        sizes = self._sizes
        i = min(bisect_right(sizes, n_tokens), len(sizes) - 1)
        if i == 0:
            return self._found[sizes[0]].seconds
        low, high = sizes[i - 1], sizes[i]
        first, last = self._found[low].seconds, self._found[high].seconds
        if n_tokens > high:
            return last + max(0.0, last - first) * (n_tokens - high) / (high - low)
        return first + (last - first) * (n_tokens - low) / (high - low)

    def prefill_seconds(self, n_rows: int, n_prefill: int) -> float | None:
        """Return what this many prompt tokens may add to a decode of this many rows; None while nothing is known of
        that."""
        table = self._mixed if n_rows and self._mixed else self._alone or self._mixed
        if not table:
            return None
        bits = n_prefill.bit_length()
        # Of two lengths equally near, the longer one: its seconds hold less of what is there for any length.
        nearest = min(table, key=lambda known: (abs(known - bits), -known))
        return table[nearest] * n_prefill


_LEAST = 1e-9
"""Seconds of a decode for which the clock is too coarse."""


def blend(old: float, new: float) -> float:
    """Return a running estimate of seconds, which falls faster than it rises: a disturbed measurement is longer."""
    return (old + new) / 2 if new < old else old + (min(new, 2 * old) - old) / 8


__all__ = ["DecodeCost", "blend"]
