"""Memory of sequences that is kept outside the context: found for a prompt, brought back, and stored."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, common_prefix, reusable
from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.host_cache import MIN_TOKENS, HostCache, HostMemory
from llama_cffi.engine.runner import Runner, SavedMemory
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import Admission, Scheduler
from llama_cffi.engine.slots import Slot, cells_in
from llama_cffi.engine.snapshot import MemoryCounts

if TYPE_CHECKING:
    from llama_cffi.core.saved_state import Checkpoint
    from llama_cffi.core.state import BytesLike

_LEAST = 8
"""Fewer tokens are not copied, however fast that is."""

_log = logging.getLogger("llama_cffi.engine")


class OutsideMemory:
    """What an engine does with memory outside its context.

    :meth:`find` and :meth:`store` take as long as a disk does and are called without the engine's lock, so that other
    threads compute meanwhile; the rest only copies memory, with the lock held.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler, host: HostCache, cost: DecodeCost) -> None:
        self._runner = runner
        self._scheduler = scheduler
        leaving = weakref.WeakMethod(self.leaving)
        # No circle, so that all of it goes with its last user, and not with a garbage collection.
        scheduler.leaving = lambda slot: None if (found := leaving()) is None else found(slot)
        self._cost = cost
        self.host = host
        self._copy_seconds = 0.0
        """What copying a token's memory takes, out and in; 0 while that was not measured."""
        self.unsaved: deque[SavedMemory] = deque()
        """What was taken and waits for :meth:`store`. Looked at after every step: an attribute costs no frame."""

    def counts(self) -> MemoryCounts:
        """Count what is in use, inside and outside. Any thread may call it, and it does not wait for a decode."""
        used, kept = cells_in(self._scheduler.slots)
        cells = self._runner.n_cells or self._runner.n_ctx * self._runner.n_seq_max
        return MemoryCounts(cells=cells, used=used, kept=kept, host_bytes=self.host.nbytes)

    def prompts(self, conditioning: Conditioning, found: SavedMemory | None = None) -> Iterator[Prompt]:
        """Yield all that is kept under a conditioning, inside and outside, and what was ``found``. Any thread may call
        it.
        """
        yield from (slot.held for slot in self._scheduler.slots if slot.conditioning == conditioning)
        yield from self.host.prompts(conditioning)
        if found is not None:
            yield found.prompt

    def find(self, prompt: Prompt, held: int) -> SavedMemory | None:
        """Read the saved beginning of a prompt that spares more than the ``held`` cells in memory."""
        return self._runner.find(prompt, held)

    def prepare(self, admission: Admission, sequence: RunningSequence) -> int:
        """Bring a slot's memory into the state that an admission asks for; return how many cells it holds of those.

        More than were asked for come from the host.
        """
        if _log.isEnabledFor(logging.DEBUG):
            self._explain(sequence, admission.n_reused)
        slot, source, n = admission
        runner = self._runner
        self.leaving(slot, n if source is None else 0)
        fetched = self.fetch(slot, sequence, n)
        if fetched > n:
            sequence.n_host = fetched
            return fetched
        if fetched < n and source is None:
            return 0
        if source is None and runner.keep(slot.seq_id, slot.held.position(n)):
            return n
        if source is None:
            # What was there cannot be cut at this place, as that of a sliding window.
            slot.shared = ()
            sequence.n_host = self.fetch(slot, sequence, 0)
            return sequence.n_host
        return n if runner.copy(source.seq_id, slot.seq_id, source.held.position(n)) else 0

    def _explain(self, sequence: RunningSequence, n_reused: int) -> None:
        """Log why not more of a prompt was in memory."""
        n = len(sequence.cells)
        nearest = max(self._scheduler.slots, key=lambda slot: common_prefix(slot.held, sequence.whole))
        place = common_prefix(nearest.held, sequence.whole)
        if place >= len(nearest.held):
            reason = f"what is in memory ends after {place} tokens"
        elif place >= n:
            reason = "all of it is in memory"
        else:
            reason = f"token {place} is {sequence.cells[place]}, and {nearest.held[place]} in memory"
        if nearest.conditioning != sequence.request.conditioning:
            reason += ", with other adapters"
        _log.debug("%d of %d prompt tokens are in memory: %s", n_reused, n, reason)

    def leaving(self, slot: Slot, n_kept: int = 0) -> None:
        """Copy to the host what a slot is about to lose beyond its first cells, unless computing it again is faster."""
        held, conditioning = slot.held, slot.conditioning
        if len(held) - n_kept < _LEAST:
            return
        others = [one.held for one in self._scheduler.slots if one is not slot and one.conditioning == conditioning]
        n = self.host.missing(held, conditioning, others)
        rate = self._cost.prefill_rate
        worth = n / rate > self._copy_seconds * len(held) if rate and self._copy_seconds else n >= MIN_TOKENS
        if n >= _LEAST and worth and self._runner.keep(slot.seq_id, held.n_positions):
            self._copy(slot.seq_id, held, conditioning)

    def checkpoint(self, sequence: RunningSequence, n: int) -> None:
        """Copy to the host what a sequence has computed so far, its first ``n`` cells."""
        held = sequence.whole.first(n)
        if sequence.seq_id is not None and not self.host.holds(held, sequence.request.conditioning):
            self._copy(sequence.seq_id, held, sequence.request.conditioning)

    def checkpoints(self, held: Prompt, conditioning: Conditioning) -> list[Checkpoint]:
        """Return the checkpoints of what a slot holds, where its memory cannot be cut."""
        if self.host.can_cut:
            return []
        return [
            (len(one.prompt), data, one.part is not None)
            for one in self.host.beginnings(held, conditioning)
            if (data := one.data if one.part is None else one.part) is not None
        ]

    def remember(
        self, held: Prompt, conditioning: Conditioning, checkpoints: Sequence[Checkpoint], data: BytesLike
    ) -> None:
        """Keep checkpoints of what a slot holds as if its prompt had been computed here; ``data`` is the whole memory,
        for those that have a part of it only.
        """
        held = held.without_content()
        if any(partial for _, _, partial in checkpoints) and not self.host.holds(held, conditioning):
            self.host.add(HostMemory(held, data, conditioning))
        has_whole = self.host.holds(held, conditioning)
        for n, kept, partial in checkpoints:
            begun = held.first(n)
            if not self.host.holds(begun, conditioning) and (has_whole or not partial):
                self.host.add(HostMemory(begun, None if partial else kept, conditioning, kept if partial else None))

    def _copy(self, seq_id: int, held: Prompt, conditioning: Conditioning) -> None:
        start = perf_counter()
        data, part = self._runner.save(seq_id)
        self.host.add(HostMemory(held.without_content(), data, conditioning, part))
        self._copy_seconds = 2 * (perf_counter() - start) / len(held)

    def fetch(self, slot: Slot, sequence: RunningSequence, held: int) -> int:
        """Bring what the host keeps for a sequence into its slot, if that spares more than the ``held`` cells.

        Return how many cells it spares, 0 without room or anything to bring: the slot is empty then.
        """
        found = self.host.find(sequence.wanted, sequence.request.conditioning, held)
        if found is None:
            return held
        self.host.used(found)
        self._runner.keep(slot.seq_id, 0)
        if self._runner.recall(slot.seq_id, found) is not None:
            return 0
        n = reusable(found.prompt, sequence.wanted, can_cut=self.host.can_cut)
        return n if self._runner.keep(slot.seq_id, found.prompt.position(n)) else 0

    def recall(self, found: SavedMemory, prompt: Prompt) -> int:
        """Bring saved memory into an idle slot, unless there is as much in memory by now; return how much it spares."""
        choice = self._scheduler.spare(prompt)
        n = reusable(found.prompt, prompt, can_cut=self._runner.can_cut)
        if choice is None or n <= choice[1] or self.bring(found, choice[0]) is not None:
            return 0
        return n

    def bring(self, found: SavedMemory, slot: Slot, conditioning: Conditioning = PLAIN) -> str | None:
        """Put saved memory into an idle slot; other slots give up what they hold when there is no room.

        Return why there is none even then.
        """
        slot.fill()
        while (reason := self._runner.recall(slot.seq_id, found)) is not None:
            seq_id = self._scheduler.forget_oldest()
            if seq_id is None:
                return reason
            self._runner.keep(seq_id, 0)
        slot.fill(found.prompt, conditioning)
        return None

    def exchange(self, found: SavedMemory, slot: Slot, conditioning: Conditioning) -> str | None:
        """Do as :meth:`bring`; where there is no room, the slot gets back what it held."""
        before = HostMemory(slot.held, self._runner.save(slot.seq_id)[0], slot.conditioning) if slot.held else None
        reason = self.bring(found, slot, conditioning)
        if reason is not None and before is not None:
            self.bring(before, slot, before.conditioning)
        return reason

    def take(self, sequence: RunningSequence, seq_id: int) -> None:
        """Copy the memory of a sequence that ended and had this seq_id, if it is to be kept."""
        self.clear(sequence, seq_id)
        # What is kept outside is for requests without conditioning.
        if not sequence.request.conditioning and sequence.reuse:
            saved = self._runner.copy_out(seq_id, self._scheduler.slots[seq_id].held)
            if saved is not None:
                self.unsaved.append(saved)

    def clear(self, sequence: RunningSequence, seq_id: int | None) -> None:
        """Empty the memory of a sequence that ended and leaves nothing for others."""
        if seq_id is not None and not sequence.reuse:
            self._runner.keep(seq_id, 0)

    def store(self) -> None:
        """Store what was taken. Several threads may call it at once."""
        with suppress(IndexError):  # another thread may have taken the last one
            while True:
                self._runner.store(self.unsaved.popleft())


__all__ = ["OutsideMemory"]
