"""A checksum for gigabytes: it finds damage at the speed of memory, and is no protection from malice."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A prime number of columns: what is moved by whole pages comes into other columns.
_ROWS, _COLUMNS = 64, 509
BLOCK = 8 * _ROWS * _COLUMNS
"""Bytes that are summed together. Every piece but the last must be a multiple of it."""


class Checksum:
    """BLAKE2b over column sums.

    The bytes are read as rows of 64-bit words, 64 rows to a block; the sum of each column of each block is hashed,
    and what remains after the last block as it is. A changed byte changes a sum, whatever its place; CRC-32 finds as
    much and takes four times as long.
    """

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def update(self, data: NDArray[np.uint8]) -> None:
        """Add bytes, uint8 of shape ``(n,)``."""
        n_blocks = len(data) // BLOCK
        if n_blocks:
            words = data[: n_blocks * BLOCK].view("<u8").reshape(n_blocks, _ROWS, _COLUMNS)
            self._hash.update(np.add.reduce(words, axis=1).data)
        self._hash.update(data[n_blocks * BLOCK :].data)

    def digest(self) -> bytes:
        """16 bytes."""
        return self._hash.digest()


__all__ = ["BLOCK", "Checksum"]
