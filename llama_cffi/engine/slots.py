"""The memory of a Context as the engine sees it: one slot for each sequence id."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.core.adapter import AdapterSet
    from llama_cffi.engine.running_sequence import RunningSequence


class Slot:
    """Bookkeeping around one seq_id: who uses it, or which tokens were left in its memory."""

    __slots__ = ("_adapters", "_cached", "last_used", "seq_id", "sequence")

    def __init__(self, seq_id: int) -> None:
        self.seq_id = seq_id
        self.sequence: RunningSequence | None = None
        self.last_used = 0
        self._cached: list[int] = []
        self._adapters: AdapterSet = ()

    @property
    def adapters(self) -> AdapterSet:
        """The adapters that its tokens were computed with."""
        sequence = self.sequence
        return self._adapters if sequence is None else sequence.request.adapters

    @property
    def tokens(self) -> list[int]:
        """Tokens whose cells are in memory, as computing them alone would give."""
        sequence = self.sequence
        return self._cached if sequence is None else sequence.tokens[: min(sequence.n_past, sequence.n_exact)]

    def take(self, sequence: RunningSequence) -> None:
        """Give the slot to a sequence."""
        self.sequence = sequence
        self._cached = []

    def release(self, *, keep: bool = True) -> None:
        """Take it back; with ``keep`` the tokens in memory stay for the next request that begins like them."""
        self._cached, self._adapters = (self.tokens, self.adapters) if keep else ([], ())
        self.sequence = None

    def fill(self, tokens: Iterable[int], adapters: AdapterSet = ()) -> None:
        """The idle slot's memory was replaced: it holds these tokens now, computed with these adapters."""
        self._cached, self._adapters = list(tokens), adapters


def common_prefix(a: Tokens[int], b: Tokens[int]) -> int:
    """Length of the common beginning of two token lists."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    # Slices compare at C speed: halve the interval instead of walking it.
    low, high = 0, limit
    while low < high - 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def reusable(tokens: Tokens[int], prompt: Tokens[int], *, can_cut: bool = True) -> int:
    """How many tokens of a prompt need not be computed with ``tokens`` in memory.

    The last prompt token always is: its logits choose the first new one. A memory that cannot be cut is of use only
    when the prompt goes on where it ends.
    """
    n = min(common_prefix(tokens, prompt), len(prompt) - 1)
    return n if can_cut or n == len(tokens) else 0


def choose_slot(
    slots: list[Slot],
    prompt: list[int],
    adapters: AdapterSet = (),
    *,
    can_copy: bool = True,
    can_cut: bool = True,
) -> tuple[Slot, Slot | None, int] | None:
    """The idle slot for a prompt, the slot to copy a prefix from (None: the slot's own memory), and its length.

    None when every slot is busy. The longest common prefix wins; an idle slot is used up only when most of what it
    holds is reused, otherwise its memory is shared with the slot unused for longest. Without ``can_copy`` nothing
    can be shared: the idle slot with the longest prefix is used up. ``can_cut`` is as in :func:`reusable`. What other
    adapters computed is no prefix.
    """
    idle = [slot for slot in slots if slot.sequence is None]
    if not idle:
        return None
    best, n = None, 0
    for slot in slots if can_copy else idle:
        if slot.adapters != adapters:
            continue
        length = reusable(slot.tokens, prompt, can_cut=can_cut)
        if length > n:
            best, n = slot, length
    if best is not None and best.sequence is None and (2 * n >= len(best.tokens) or not can_copy):
        return best, None, n
    target = min(idle, key=lambda slot: (len(slot.tokens) > 0, slot.last_used))
    if best is None:
        return target, None, 0
    return (target, None, n) if target is best else (target, best, n)
