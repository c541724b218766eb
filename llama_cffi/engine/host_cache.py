"""States of texts that were evicted from the context's memory, kept in host memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, common_prefix, reusable
from llama_cffi.errors import StateError

if TYPE_CHECKING:
    from llama_cffi.core.context import Context
    from llama_cffi.core.state import BytesLike

MIN_TOKENS = 64
"""Fewer tokens are computed again: to look for them is not worth it."""
_GIB = 2**30


@dataclass(frozen=True, eq=False)
class HostMemory:
    """The memory of one sequence, outside the context: whole, or beside another one that holds more.

    Cells of full attention can be cut: of a memory that has them they are there, and ``part`` is the rest.
    """

    prompt: Prompt
    """What it holds."""
    data: BytesLike | None
    """The whole memory; None where it is in ``base``."""
    conditioning: Conditioning = PLAIN
    """What it was computed under."""
    part: BytesLike | None = None
    """What of it cannot be cut; None where that is all, or nothing."""
    base: HostMemory | None = None
    """A memory that begins with the same cells."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes itself."""
        return _size(self.data) + _size(self.part)

    def beside(self, base: HostMemory) -> HostMemory:
        """Return the same memory without what ``base`` has of it."""
        return replace(self, data=None, base=base)

    def restore(self, context: Context, seq_id: int) -> str | None:
        """Put it into a sequence; otherwise say why llama.cpp has no room for it."""
        data = self.data if self.base is None else self.base.data
        if data is None:
            raise ValueError("a memory beside another one, which is itself beside another one")
        try:
            context.state.seq_set_data(seq_id, data)
            if self.base is not None and self.part is not None:
                context.state.seq_set_data(seq_id, self.part, partial=True)
                if not context.memory.seq_rm(seq_id, self.prompt.n_positions):
                    context.memory.seq_rm(seq_id)
                    return "the memory cannot be cut"
        except StateError as error:
            return str(error)
        return None


class HostCache:
    """At most ``max_bytes`` of memories of sequences; the one unused for longest goes first.

    One thread adds; others may look for a prompt at the same time, because what they look at is never changed.
    """

    def __init__(self, max_bytes: int, *, can_cut: bool = True) -> None:
        self.max_bytes = max_bytes
        self.can_cut = can_cut
        self._kept: tuple[HostMemory, ...] = ()
        """The one used last comes last."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that are in use."""
        return sum(one.nbytes for one in self._kept)

    def find(self, prompt: Prompt, conditioning: Conditioning, held: int) -> HostMemory | None:
        """Return what spares a prompt most, if that is at least :data:`MIN_TOKENS` more than ``held`` cells."""
        best, most = None, held + MIN_TOKENS - 1
        for one in self._kept:
            if one.conditioning == conditioning:
                # The most there can be is found much faster than what can be reused.
                if one.prompt.n_shared(prompt) <= most:
                    continue
                n = reusable(one.prompt, prompt, can_cut=self.can_cut)
                if n > most:
                    best, most = one, n
        return best

    def prompts(self, conditioning: Conditioning) -> Iterator[Prompt]:
        """Yield what is kept of texts under a conditioning."""
        return (one.prompt for one in self._kept if one.conditioning == conditioning)

    def beginnings(self, prompt: Prompt, conditioning: Conditioning) -> Iterator[HostMemory]:
        """Yield what is kept of proper beginnings of a prompt."""
        for one in self._kept:
            n = len(one.prompt)
            if one.conditioning == conditioning and n < len(prompt) and one.prompt.n_shared(prompt) == n:
                yield one

    def missing(self, held: Prompt, conditioning: Conditioning, elsewhere: Iterable[Prompt] = ()) -> int:
        """Return how many of its last cells no other memory has, here or ``elsewhere``; 0 if none may be kept."""
        if self.max_bytes <= 0 or len(held) < MIN_TOKENS:
            return 0
        n = len(held)
        if not self.can_cut:
            return 0 if self.holds(held, conditioning) or held in elsewhere else n
        others = (*self.prompts(conditioning), *elsewhere)
        return n - max((held.n_shared(other) for other in others), default=0)

    def add(self, memory: HostMemory) -> None:
        """Keep a memory; those that it holds whole go, if a memory can be cut, and the oldest ones for room.

        If it cannot be cut, of those that are the beginning of another one only the part is kept that cannot.
        """
        if self.can_cut:
            kept = [one for one in self._kept if not _holds(memory, one)]
        else:
            kept = list(self._kept)
            longer = next((one for one in kept if one.base is None and _is_part_of(memory, one)), None)
            if longer is not None:
                memory = memory.beside(longer)
            else:
                kept = [one.beside(memory) if _is_part_of(one, memory) else one for one in kept]
        total = memory.nbytes + sum(one.nbytes for one in kept)
        while total > self.max_bytes:
            oldest = next((one for one in kept if one is not memory.base), None)
            if oldest is None:
                return
            total -= sum(one.nbytes for one in kept if one is oldest or one.base is oldest)
            kept = [one for one in kept if one is not oldest and one.base is not oldest]
        self._kept = (*kept, memory)

    def used(self, memory: HostMemory) -> None:
        """Note that a memory was of use."""
        if memory in self._kept:
            last = (memory,) if memory.base is None else (memory.base, memory)
            self._kept = (*(one for one in self._kept if one not in last), *last)

    def holds(self, prompt: Prompt, conditioning: Conditioning) -> bool:
        """Whether exactly this is kept."""
        return any(one.prompt == prompt and one.conditioning == conditioning for one in self._kept)

    def clear(self) -> None:
        """Remove all states."""
        self._kept = ()


def _holds(memory: HostMemory, other: HostMemory) -> bool:
    n = len(other.prompt)
    return other.conditioning == memory.conditioning and common_prefix(memory.prompt, other.prompt) == n


def _size(data: BytesLike | None) -> int:
    return 0 if data is None else memoryview(data).nbytes  # type: ignore[arg-type]


def _is_part_of(one: HostMemory, whole: HostMemory) -> bool:
    return one.part is not None and len(one.prompt) < len(whole.prompt) and _holds(whole, one)


def usual_bytes() -> int:
    """Return an eighth of the memory that is free now, 4 GiB at most; 256 MiB where the system does not tell."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _GIB // 4
    return min(4 * _GIB, free // 8)


__all__ = ["MIN_TOKENS", "HostCache", "HostMemory", "usual_bytes"]
