"""The place of a medium in a prompt: what libmtmd makes of it may depend on what stands before."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """What of a place changes what a projector makes of a medium: nothing, for most kinds of projectors."""

    n_images: int | None = None
    """Images before it, where libmtmd numbers them (HunyuanVL); None where it does not."""
    n_cells: int = 0
    """Cells before it, modulo ``alignment``."""
    alignment: int = 1
    """Where libmtmd aligns images to a multiple of some tokens (DeepSeek-V4), this number of tokens."""

    def fits(self, n_images: int, n_cells: int) -> bool:
        """Whether it is a place behind ``n_images`` images, and ``n_cells`` cells in all."""
        return self.n_images in (None, n_images) and n_cells % self.alignment == self.n_cells


FIRST_PLACE = Place()
"""That of the first thing in a prompt."""

__all__ = ["FIRST_PLACE", "Place"]
