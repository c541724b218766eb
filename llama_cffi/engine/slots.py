"""The memory of a Context as the engine sees it: one slot for each sequence id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, reusable

if TYPE_CHECKING:
    from llama_cffi.engine.running_sequence import RunningSequence

_EMPTY = Prompt()


class Slot:
    """Bookkeeping around one seq_id: the sequence that uses it, or what was left in its memory."""

    __slots__ = ("_conditioning", "_held", "last_used", "seq_id", "sequence")

    def __init__(self, seq_id: int) -> None:
        self.seq_id = seq_id
        self.sequence: RunningSequence | None = None
        self.last_used = 0
        self._held = _EMPTY
        self._conditioning = PLAIN

    @property
    def conditioning(self) -> Conditioning:
        """What its memory was computed with."""
        sequence = self.sequence
        return self._conditioning if sequence is None else sequence.request.conditioning

    @property
    def held(self) -> Prompt:
        """What is in memory, as computing it alone would give."""
        sequence = self.sequence
        return self._held if sequence is None else sequence.held

    def take(self, sequence: RunningSequence) -> None:
        """Give the slot to a sequence."""
        self.sequence = sequence
        self._held = _EMPTY

    def release(self, *, keep: bool = True) -> None:
        """Take it back; with ``keep`` the memory stays for the next request that begins like it."""
        self._held, self._conditioning = (self.held, self.conditioning) if keep else (_EMPTY, PLAIN)
        self.sequence = None

    def fill(self, held: Prompt = _EMPTY, conditioning: Conditioning = PLAIN) -> None:
        """Record that the idle slot's memory was replaced: it holds this now, computed under this conditioning."""
        self._held, self._conditioning = held, conditioning


def choose_slot(
    slots: list[Slot],
    prompt: Prompt,
    conditioning: Conditioning = PLAIN,
    *,
    can_copy: bool = True,
    can_cut: bool = True,
) -> tuple[Slot, Slot | None, int] | None:
    """Return the idle slot for a prompt, the slot to copy a prefix from (None: the slot's own memory), and its length.

    None when every slot is busy. The longest common prefix wins; an idle slot is used up only when most of what it
    holds is reused, otherwise its memory is shared with the slot unused for longest. Without ``can_copy`` nothing
    can be shared: the idle slot with the longest prefix is used up. ``can_cut`` is as in
    :func:`~llama_cffi.core.prompt.reusable`. What was computed under another conditioning is no prefix.
    """
    idle = [slot for slot in slots if slot.sequence is None]
    if not idle:
        return None
    best, n = None, 0
    for slot in slots if can_copy else idle:
        if slot.conditioning != conditioning:
            continue
        length = reusable(slot.held, prompt, can_cut=can_cut)
        if length > n:
            best, n = slot, length
    if best is not None and best.sequence is None and (2 * n >= len(best.held) or not can_copy):
        return best, None, n
    target = min(idle, key=lambda slot: (len(slot.held) > 0, slot.last_used))
    if best is None:
        return target, None, 0
    return (target, None, n) if target is best else (target, best, n)


__all__ = ["Slot", "choose_slot"]
