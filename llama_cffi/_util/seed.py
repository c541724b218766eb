"""Seeds of random numbers, as llama.h takes them. Needs no library."""

from __future__ import annotations

import os

from llama_cffi._util.scalars import check_int
from llama_cffi.errors import SamplerError

MAX_SEED = 2**32 - 2
"""Largest seed: llama.h keeps 2**32 - 1 for "choose one at random"."""


def check_seed(seed: int) -> int:
    """Return the seed as an int; :class:`SamplerError` when it is not an integer from 0 to :data:`MAX_SEED`."""
    return check_int("seed", seed, 0, MAX_SEED, error=SamplerError)


def draw_seed() -> int:
    """Return a random seed."""
    return int.from_bytes(os.urandom(8), "little") % (MAX_SEED + 1)


__all__ = ["MAX_SEED", "check_seed", "draw_seed"]
