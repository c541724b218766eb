"""The thread that is in the generation loop, and the threads that wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from llama_cffi._util.fork import ForkedLock, fork_safe
from llama_cffi.engine.waiter import Waiter
from llama_cffi.errors import BusyError

_get_ident = threading.get_ident


class Turn:
    """The right to be inside of the loop: for a step, or for something between two steps.

    A caller that takes a step does ``with turn.lock:`` and sets ``turn.holder`` inside; the engine does that itself,
    because a call more is felt at every token. A thread that wants something else uses :meth:`between_steps`, and gets
    in before the next step.
    """

    def __init__(self) -> None:
        # Reentrant, so that a signal handler that comes in is refused instead of waiting for what it interrupted.
        self.lock: AbstractContextManager[object] = threading.RLock()
        self.holder = 0
        """The thread that is inside, 0 for none. It is a hint: the lock is what keeps others out."""
        self.line: deque[Waiter] = deque()
        """Threads that wait for another one's step; one of them goes on when that one leaves."""
        self.guests: deque[None] = deque()
        """An entry for each thread that wants to be inside for something else than a step."""
        self._guest_lock: AbstractContextManager[object] = fork_safe(threading.RLock())

    def forked(self) -> None:
        """Make every use in a forked child process an error."""
        self.lock, self.holder = ForkedLock("Llama or Engine"), 0

    def check_not_inside(self) -> None:
        """Raise :class:`BusyError` on the thread that is inside."""
        if self.holder == _get_ident():
            raise BusyError("a signal handler or finalizer cannot generate in the middle of a step")

    def let_guests(self) -> None:
        """Wait for those that were there before."""
        with self._guest_lock:
            pass

    def pass_on(self) -> None:
        """Wake one of the threads in line: the thread that was inside may not return."""
        with suppress(IndexError):
            self.line.popleft().wake()

    def leave_line(self, waiter: Waiter) -> None:
        """Take a thread out of the line, if it is there."""
        if waiter in self.line:
            with suppress(ValueError):  # it was taken out just now, to go on
                self.line.remove(waiter)

    @contextmanager
    def between_steps(self) -> Iterator[bool]:
        """Be inside, before the next step; yields False on a thread that was inside already."""
        self.guests.append(None)
        try:
            with self._guest_lock, self.lock:
                if self.holder == _get_ident():
                    yield False
                    return
                self.holder = _get_ident()
                try:
                    yield True
                finally:
                    self.holder = 0
        finally:
            self.guests.pop()


__all__ = ["Turn"]
