"""Notes of other threads to the generation loop: new requests, and other actions before the next step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from copy import copy
from functools import partial

from llama_cffi._util.fork import ForkedLock
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.loop import GenerationLoop
from llama_cffi.engine.request import Request
from llama_cffi.engine.runner import SavedMemory
from llama_cffi.engine.running_sequence import Listener, RunningSequence
from llama_cffi.errors import LlamaCffiError, QueueFullError

_USUAL_RATE = 200.0
"""Tokens of prompts per second while nothing is measured."""
_USUAL_TOKENS = 256
"""What a text is taken to need that says nothing of its length."""


class Inbox:
    """Takes notes without waiting for a step; :meth:`take` processes them, on the thread that is in the loop."""

    def __init__(self, loop: GenerationLoop, options: EngineOptions) -> None:
        self._loop = loop
        self._max_waiting = options.max_waiting
        self._max_waiting_tokens = options.max_waiting_tokens
        self.notes: deque[Callable[[], object]] = deque()
        """What is to be done. It is looked at for each token: a truth value costs no call."""
        self.put = self.notes.append
        self.submitted: deque[RunningSequence] = deque()
        """Those whose note is here."""
        self.end: LlamaCffiError | None = None
        """The error with which new requests are refused."""
        self.door: AbstractContextManager[object] = threading.RLock()
        """Held for as long as it takes to count those that wait, and to add one."""
        self._refused: dict[Listener, int] = {}
        """Listeners of requests for which there was no room, and how many had left the queue by then."""

    def forked(self) -> None:
        """Make every use in a forked child process an error."""
        self.door = ForkedLock("Llama or Engine")

    def take(self) -> None:
        """Process the notes, in their order.

        A note that a signal handler interrupts stays, and is done again: each may be done twice.
        """
        notes = self.notes
        while notes:
            note = notes[0]
            try:
                note()
            except BaseException as error:
                # Signal handlers run on the main thread.
                if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
                    self._drop(note)
                raise
            self._drop(note)
        if self._refused:
            self._tell_of_room()

    def _drop(self, note: Callable[[], object]) -> None:
        # A signal handler that came in between may have done it and more.
        if self.notes and self.notes[0] is note:
            self.notes.popleft()

    @property
    def waiting(self) -> tuple[RunningSequence, ...]:
        """The sequences that have not begun, and are to begin."""
        return tuple(one for one in (*self._loop.scheduler.waiting, *self.submitted) if not one.unwanted)

    def submit(self, sequence: RunningSequence, found: SavedMemory | None) -> None:
        """Take a sequence, for whose prompt this was found; raises :class:`QueueFullError` and what :attr:`end` is."""
        with self.door:
            if self.end is not None:
                raise copy(self.end) from self.end.__cause__
            self.check_room(sequence.request, next(iter(sequence.listeners), None))
            self.submitted.append(sequence)
            self.put(partial(self._add, sequence, found))

    def _add(self, sequence: RunningSequence, found: SavedMemory | None) -> None:
        with suppress(ValueError):  # done before, and interrupted
            self.submitted.remove(sequence)
        self._loop.add(sequence, found)
        if sequence.done:  # it never came to the queue
            self._loop.scheduler.line.n_left += 1

    def check_room(self, request: Request, listener: Listener | None = None) -> None:
        """Raise :class:`QueueFullError` when a request may not wait; its listener is told when fewer wait."""
        if self._max_waiting is None and self._max_waiting_tokens is None:
            return
        error = self._no_room(request)
        if error is not None and listener is not None:
            self._refused.setdefault(listener, self._loop.scheduler.line.n_left)
            error = self._no_room(request)  # one may have begun between the first look and the note
        if error is not None:
            raise error

    def _tell_of_room(self) -> None:
        n_left = self._loop.scheduler.line.n_left
        for listener, n_before in tuple(self._refused.items()):
            if n_left != n_before or self.end is not None:
                self._refused.pop(listener, None)
                listener([])

    def _no_room(self, request: Request) -> QueueFullError | None:
        most, most_tokens = self._max_waiting, self._max_waiting_tokens
        waiting = self.waiting
        n_tokens = sum(len(one.cells) for one in waiting)
        if most is not None and len(waiting) >= most:
            full = f"{len(waiting)} requests are waiting, which is the limit"
        elif most_tokens is not None and waiting and n_tokens + len(request.prompt) > most_tokens:
            # A prompt that is longer than that may wait alone.
            full = f"prompts of {n_tokens} tokens are waiting; at most {most_tokens} may wait"
        else:
            return None
        seconds = self._seconds_until_room(n_tokens)
        return QueueFullError(f"{full}; try again in {seconds:.0f} seconds", retry_after=seconds)

    def _seconds_until_room(self, n_waiting_tokens: int) -> float:
        """Guess in how many seconds a request of those that wait begins, 1 to 60: from what was measured."""
        running, cost = self._loop.scheduler.running, self._loop.cost
        pending = sum(sequence.n_pending for sequence in running)
        per_step = cost.seconds(max(1, len(running))) if cost.knows(1) else 0.05
        left = min((min(sequence.n_left, _USUAL_TOKENS) for sequence in running), default=0)
        prefill = (pending + n_waiting_tokens) / (cost.prefill_rate or _USUAL_RATE)
        return min(60.0, max(1.0, prefill + left * per_step))

    def close(self, error: LlamaCffiError) -> None:
        """Refuse new requests with an error."""
        with self.door:
            self.end = self._loop.end_error = self.end or error
        self._tell_of_room()

    def reopen(self, error: LlamaCffiError) -> None:
        """Take requests again, if it was this error that ended that."""
        with self.door:
            if self.end is error:
                self.end = self._loop.end_error = None


__all__ = ["Inbox"]
