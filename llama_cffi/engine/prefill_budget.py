"""The number of prompt tokens that one decode takes beside the rows of generating sequences."""

from __future__ import annotations

from llama_cffi.engine.decode_cost import DecodeCost

_MULTIPLE = 32
"""Tokens of a decode are a multiple of this where a prompt is cut: kernels compute whole tiles, and few sizes let
llama.cpp use its graphs again."""
_LEAST = 32
"""Tokens of prompts that a decode may always take, however long it lasts: without them no prompt would end."""
_LEAST_ALONE = 128
"""The same while nothing is generating: fewer would read the weights too often for what they compute."""
_UNKNOWN = 128
"""Tokens of prompts beside rows while nothing is known of what they take."""
_SECONDS_ALONE = 1.0
"""Seconds of a decode while nothing is generating, but several prompts wait for each other."""
_SECONDS = 0.25
"""Seconds of a decode while something is generating: a reader sees no gap, and prompts that come together are through
soon. Rows that generate while others have not begun are rows that these will generate without them later on, and few
rows take longer for each."""
_LITTLE_MORE = 8
"""A prompt that ends within so small a part more than the budget is not cut."""
_ENOUGH = 4
"""A decode without rows is worth its reading of the weights when the rest takes this many times as long."""


class PrefillBudget:
    """Tokens of prompts in one decode: never more than fit ``n_ubatch`` with the rows, and fewer while rows wait for
    them, so that no decode lasts longer than ``max_step_seconds``.

    Without that limit it is a quarter of a second, or twice what the rows would take alone where that is longer; while
    nothing is generating one second. A prompt that is alone has no limit of time, so that what it is cut into does not
    depend on the clock.
    """

    def __init__(self, n_batch: int, n_ubatch: int, cost: DecodeCost, max_step_seconds: float | None = None) -> None:
        self._n_batch = n_batch
        self._n_ubatch = min(n_batch, n_ubatch)
        self._cost = cost
        self.max_step_seconds = max_step_seconds

    def limit(self, n_rows: int) -> float:
        """Return the seconds that a decode with this many rows may last."""
        if self.max_step_seconds is not None:
            return self.max_step_seconds
        if not n_rows:
            return _SECONDS_ALONE
        return max(2 * self._rows(n_rows), _SECONDS)

    def _rows(self, n_rows: int) -> float:
        return self._cost.seconds(n_rows) if n_rows and self._cost.sizes else 0.0

    def tokens(self, n_rows: int, *, alone: bool = False) -> int:
        """Return how many prompt tokens a decode with this many rows takes; 0 only when the rows fill the batch.

        ``alone`` says that there is one prompt, and nothing else that runs or waits.
        """
        most = min(self._n_batch, max(self._n_ubatch, n_rows + _LEAST)) - n_rows
        if most <= _LEAST or (alone and self.max_step_seconds is None):
            return max(0, most)
        least = _LEAST if n_rows or self.max_step_seconds is not None else min(most, _LEAST_ALONE)
        seconds = self._cost.prefill_seconds(n_rows, most)
        if seconds is None:
            return self._whole(n_rows, min(most, _UNKNOWN) if n_rows else most)
        n, left = most, self.limit(n_rows) - self._rows(n_rows)
        while n > least and seconds is not None and seconds > left:
            n = max(least, min(n - _MULTIPLE, int(n * left / seconds)))
            seconds = self._cost.prefill_seconds(n_rows, n)
        return self._whole(n_rows, n)

    def to_its_end(self, pending: int, left: int, n_taken: int) -> bool:
        """Whether a prompt is computed to its end though that is a little more than what is left of the budget.

        A rest of a few tokens would need another decode. ``n_taken`` are the rows and tokens that the decode has.
        """
        if self.max_step_seconds is not None:
            return False
        return left < pending <= left + left // _LITTLE_MORE and n_taken + pending <= self._n_ubatch

    @staticmethod
    def share(pending: int, left: int, *, before_shorter: bool) -> int:
        """Return how much of the budget a prompt gets: one that only its age has brought before shorter ones leaves
        them half, unless it ends now.
        """
        return left - left // 2 if before_shorter and pending > left > 1 else left

    @staticmethod
    def _whole(n_rows: int, n: int) -> int:
        """Take a few tokens off so that the decode is a multiple of 32, unless that leaves less than half."""
        over = (n_rows + n) % _MULTIPLE
        return n - over if n - over >= max(_LEAST // 2, n // 2) else n

    def enough(self, n_rows: int) -> int:
        """Return after how many tokens a decode ends where a prompt ends, instead of beginning with another one.

        The first token of a prompt then does not wait for the prompts behind it.
        """
        seconds = self._cost.prefill_seconds(n_rows, self._n_ubatch)
        if seconds is None or not self._cost.sizes:
            return _LEAST if n_rows else 2 * _LEAST
        # What rows take is not lost, but where prompts take less the rows would take most of the time.
        worth = self._rows(n_rows) if n_rows else _ENOUGH * self._cost.seconds(1)
        return max(_LEAST, round(worth * self._n_ubatch / seconds))

    def too_long(self, n_rows: int) -> bool:
        """Whether this many rows and the least of a prompt last too long together, where that can be avoided."""
        if n_rows >= self._n_batch:
            return True
        if self.max_step_seconds is None or not self._cost.sizes:
            return False
        least = self._cost.prefill_seconds(n_rows, min(_LEAST, self._n_batch - n_rows)) or 0.0
        return self._rows(n_rows) + least > self.max_step_seconds


__all__ = ["PrefillBudget"]
