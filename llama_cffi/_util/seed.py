"""Seeds of random numbers, as llama.h takes them. Needs no library."""

from __future__ import annotations

import os

from llama_cffi.errors import SamplerError

MAX_SEED = 2**32 - 2
"""Largest seed: llama.h keeps 2**32 - 1 for "choose one at random"."""


def check_seed(seed: int) -> int:
    """The seed, or :class:`SamplerError` when it is outside 0 to :data:`MAX_SEED`."""
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise SamplerError(f"seed must be 0 to {MAX_SEED}, got {seed!r}")
    return seed


def draw_seed() -> int:
    """A random seed."""
    return int.from_bytes(os.urandom(8), "little") % (MAX_SEED + 1)


__all__ = ["MAX_SEED", "check_seed", "draw_seed"]
