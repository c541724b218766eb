"""How many of the sequences that generate are computed in one decode."""

from __future__ import annotations

from functools import lru_cache
from math import inf

from llama_cffi.engine.decode_cost import DecodeCost

_SAMPLES = 2
"""Measurements of a size before anything is concluded from it."""
_FRESH = 16
"""Decodes for which a choice holds."""
_BEFORE = 12
"""Decodes of several rows before the first try."""
_FIRST_GAP = 4
"""Fewest decodes between two tries of sizes that are not known yet."""
_GAP = 64
"""Fewest decodes between two tries of sizes that are known."""
_STALE = 512
"""Decodes after which a size is measured again: other programs come and go, and texts grow longer."""
_LEARNING, _KNOWING = 20, 50
"""How many times what a try has lost is computed before the next one, in the usual way: 5 and 2 percent at most.
The first is for tries of what is not known yet that have lost little."""
_LITTLE = 2.0
"""Usual decodes that are little to lose."""


class RowGroups:
    """Chooses the number of rows of a decode that takes the least time for each, from what was measured.

    All together is not always the fastest: on x86 two rows can take 2.9 times as long as one, and seven longer than
    eight. So the choice is among every size that is known, also larger ones that are filled up with rows whose results
    are thrown away (``can_pad``). What is chosen takes no longer for each row than one row alone does. Sizes that may
    be better are tried now and then, and measured again rarely. What takes longer than ``max_seconds`` is not chosen
    while something else is known.
    """

    def __init__(self, cost: DecodeCost, n_batch: int, *, can_pad: bool, max_seconds: float | None = None) -> None:
        self._cost = cost
        self._n_batch = n_batch
        self._can_pad = can_pad
        self._max_seconds = inf if max_seconds is None else max_seconds
        self._n = 0
        self._chosen_for = (0, False)
        self._choice = (0, 0)
        self._fresh_until = 0
        self._next_try = _BEFORE
        self._tried: tuple[int, int] | None = None

    def choose(self, n_rows: int, *, pad: bool = True) -> tuple[int, int]:
        """Return how many of ``n_rows`` rows the next decode takes, and how many it computes, padding included.

        ``pad`` says whether there may be padding this time: where rows draft, drafts fill the decode.
        """
        if n_rows < 2:
            return n_rows, n_rows
        pad = pad and self._can_pad
        self._n = n = self._n + 1
        if self._tried is not None:
            self._space(n_rows, self._tried, pad=pad)
        if n >= self._next_try and self._cost.sizes:
            self._tried = self._try(n_rows, pad=pad)
            if self._tried is not None:
                return self._tried
        if (n_rows, pad) != self._chosen_for or n >= self._fresh_until:
            self._choice = self._best(n_rows, pad=pad)
            self._chosen_for, self._fresh_until = (n_rows, pad), n + _FRESH
        return self._choice

    def _best(self, n_rows: int, *, pad: bool) -> tuple[int, int]:
        """Return the choice that takes the least time for each row, by what is known now."""
        cost = self._cost
        best = (n_rows, n_rows)
        if not cost.sizes:
            return best
        least = self._each(n_rows, n_rows)
        for size in cost.sizes:
            if size > self._n_batch or (size > n_rows and not pad):
                break
            taken = min(size, n_rows)
            each = self._each(taken, size)
            if each < least:
                best, least = (taken, size), each
        return best

    def _each(self, n_rows: int, n_computed: int) -> tuple[bool, float]:
        seconds = self._cost.seconds(n_computed)
        return seconds > self._max_seconds, seconds / n_rows

    def _try(self, n_rows: int, *, pad: bool) -> tuple[int, int] | None:
        cost, sizes = self._cost, _worth_trying(n_rows, self._n_batch if pad else n_rows)
        size = min(sizes, key=cost.n_samples)
        if cost.n_samples(size) >= _SAMPLES:
            size = max(sizes, key=cost.age)
            if cost.age(size) < _STALE or cost.seconds(size) > self._max_seconds:
                self._next_try = self._n + _GAP
                return None
        return min(size, n_rows), size

    def _space(self, n_rows: int, tried: tuple[int, int], *, pad: bool) -> None:
        """Put the next try off for as long as pays for this one."""
        taken, size = tried
        self._tried = None
        best, computed = self._best(n_rows, pad=pad)
        usual = self._cost.seconds(computed)
        lost = max(0.0, self._cost.seconds(size) - taken * usual / best) / usual
        learning = self._cost.n_samples(size) <= _SAMPLES and lost <= _LITTLE
        gap = max(_FIRST_GAP, _LEARNING * lost) if learning else max(_GAP, _KNOWING * lost)
        self._next_try = self._n + int(gap)
        self._fresh_until = self._n


@lru_cache(maxsize=512)
def _worth_trying(n_rows: int, most: int) -> tuple[int, ...]:
    """Sizes that may be the best for this many rows, in the order in which they are tried.

    All together, one alone, filled up to the next multiples of 4, 8 and 16 by less than what there is, the half, and
    powers of two.
    """
    filled = [-(-n_rows // multiple) * multiple for multiple in (4, 8, 16)]
    powers = [1 << bits for bits in range(n_rows.bit_length() - 1, 0, -1)]
    found = [n_rows, 1, *(size for size in filled if size <= min(most, 2 * n_rows - 1)), -(-n_rows // 2), *powers]
    return tuple(dict.fromkeys(found))


__all__ = ["RowGroups"]
