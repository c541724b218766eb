"""The base of the steps of a sampler chain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from llama_cffi._native.atomic import Cell
    from llama_cffi.core.vocab import Vocab


class Sampler(ABC):
    """One step of a :class:`SamplerChain`: a frozen value; the chain makes the native object.

    A parameter out of range raises :class:`SamplerError` when the chain is made, and a sampler that the loaded
    libllama lacks :class:`UnsupportedError`.
    """

    selects: ClassVar[bool] = False
    """Whether the step selects a token; a chain must end in one that does."""

    @property
    def history(self) -> int:
        """The number of last accepted tokens that the step uses."""
        return 0

    @abstractmethod
    def create(self, vocab: Vocab, cell: Cell) -> None:
        """Make a ``llama_sampler *`` and keep it in the cell, in one step; see :mod:`llama_cffi._native.atomic`."""


__all__ = ["Sampler"]
