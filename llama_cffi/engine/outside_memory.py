"""Memory of sequences that is kept outside the context: found for a prompt, brought back, and stored."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, reusable
from llama_cffi.engine.runner import Runner, SavedMemory
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import Scheduler
from llama_cffi.engine.slots import Slot


class OutsideMemory:
    """What an engine does with memory outside its context.

    :meth:`find` and :meth:`store` take as long as a disk does and are called without the engine's lock, so that other
    threads compute meanwhile; the rest only copies memory, with the lock held.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self.unsaved: deque[SavedMemory] = deque()
        """What was taken and waits for :meth:`store`. Looked at after every step: an attribute costs no frame."""

    def find(self, prompt: Prompt, held: int) -> SavedMemory | None:
        """Read the saved beginning of a prompt that spares more than the ``held`` cells in memory."""
        return self._runner.find(prompt, held)

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

    def take(self, sequence: RunningSequence, seq_id: int) -> None:
        """Copy the memory of a sequence that ended and had this seq_id, if it is to be kept."""
        # What is kept outside is for requests without conditioning.
        if not sequence.request.conditioning:
            saved = self._runner.copy_out(seq_id, self._scheduler.slots[seq_id].held)
            if saved is not None:
                self.unsaved.append(saved)

    def store(self) -> None:
        """Store what was taken. Several threads may call it at once."""
        with suppress(IndexError):  # another thread may have taken the last one
            while True:
                self._runner.store(self.unsaved.popleft())


__all__ = ["OutsideMemory"]
