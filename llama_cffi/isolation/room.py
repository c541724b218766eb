"""What a request must fit into, as a value."""

from __future__ import annotations

from typing import NamedTuple


class Room(NamedTuple):
    """The limits of the other process's context; see :class:`~llama_cffi.engine.request.Room`."""

    n_batch: int
    n_ubatch: int
    n_ctx: int
    can_shift: bool
    n_seq_max: int
    decoder_start: int | None


__all__ = ["Room"]
