"""Copies of llama.cpp's adaptive-p sampler in its state.

Its own clone takes over the average of accepted probabilities. It starts the random numbers anew, and leaves out the
probabilities that the accept after a draw looks at. Both come back when the copy draws as often as the original did:
how many random numbers a draw takes depends on whether there is a choice, not on what the candidates are.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import atomic, guard, lib
from llama_cffi._native.atomic import Cell
from llama_cffi.core.sampler.python import Workspace
from llama_cffi.errors import SamplerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_TOKEN = -1
"""``LLAMA_TOKEN_NULL``: what was drawn when nothing waits for an accept."""


class AdaptiveDraws:
    """What one adaptive-p sampler has drawn since its first state."""

    __slots__ = ("_alone", "_among", "_last")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The sampler was reset."""
        self._alone = 0
        """Draws from one candidate."""
        self._among = 0
        """Draws from more."""
        self._last: tuple[NDArray[Any], bool] | None = None
        """The candidates of a draw that nothing was accepted after, and whether they were sorted."""

    def apply(self, native: Any, array: Any, workspace: Workspace) -> None:
        """Run the sampler over the candidates of an array in a workspace."""
        records, copied = workspace.view(array)
        last = records if copied else records.copy(), bool(array.sorted)
        guard.sampler_apply(native, array)
        self._settle()
        self._last = last

    def accepted(self) -> None:
        """The sampler has seen an accepted token: no draw waits for it any more."""
        self._settle()

    def _settle(self) -> None:
        if self._last is not None:
            if len(self._last[0]) > 1:
                self._among += 1
            else:
                self._alone += 1
            self._last = None

    def clone(self, native: Any, cell: Cell) -> AdaptiveDraws:
        """Make a ``llama_sampler *`` in the state of ``native``, keep it in the cell, and return its draws.

        Takes about two microseconds for each draw. Raises :class:`SamplerError` where this libllama clones in a way
        that is not known.
        """
        if (self._alone or self._among or self._last) and not _continues():
            raise SamplerError(
                "this libllama clones adaptive-p in an unknown way: clone the chain before its first draw, "
                "or after a reset"
            )
        return self._clone(native, cell)[1]

    def _clone(self, native: Any, cell: Cell) -> tuple[Any, AdaptiveDraws]:
        twin, draws, workspace = guard.sampler_clone(native, cell), AdaptiveDraws(), Workspace()
        for size, count in ((1, self._alone), (2, self._among)):
            row, ids = np.zeros(size, dtype=np.float32), np.full(size, _NO_TOKEN, dtype=np.int32)
            array = workspace.fill(row, ids)
            for _ in range(count):
                guard.sampler_apply(twin, array)
        draws._alone, draws._among = self._alone, self._among
        if self._last is not None:
            records, is_sorted = self._last
            array = workspace.fill(np.ascontiguousarray(records["logit"]), records["id"])
            array.sorted = is_sorted
            draws.apply(twin, array, workspace)
        return twin, draws


@cache
def _continues() -> bool:
    """Whether a clone of this libllama's sampler goes on as the original does. It is tried, once."""
    rng = np.random.default_rng(1)
    rows = [rng.normal(0, 2, n).astype(np.float32) for n in (8, 1, 5, 2, 30, 9, *[16] * 32)]
    workspace, draws = Workspace(), AdaptiveDraws()
    cells: list[Cell] = [[], []]
    try:
        atomic.keep(cells[0], lib.llama_sampler_init_adaptive_p, 0.3, 0.9, 1)
        natives = [cells[0][0]]
        for row in rows[:6]:
            array = workspace.fill(row)
            draws.apply(natives[0], array, workspace)
            if len(row) != 9:
                lib.llama_sampler_accept(natives[0], array.data[array.selected].id)
                draws.accepted()
        natives.append(draws._clone(natives[0], cells[1])[0])
        drawn = int(array.data[array.selected].id)
        found: list[list[Any]] = [[], []]
        for native, results in zip(natives, found, strict=True):
            lib.llama_sampler_accept(native, drawn)
            for row in rows[6:]:
                array = workspace.fill(row)
                guard.sampler_apply(native, array)
                token = int(array.data[array.selected].id)
                results.append((token, workspace.left()["logit"].tobytes()))
                lib.llama_sampler_accept(native, token)
        return found[0] == found[1]
    finally:
        for cell in cells:
            guard.free("llama_sampler_free", cell)


__all__ = ["AdaptiveDraws"]
