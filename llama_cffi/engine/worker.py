"""The thread that computes for all callers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from llama_cffi._native import shutdown
from llama_cffi._util.worker import start_daemon
from llama_cffi.errors import EngineFailedError, LlamaCffiError

_STOP_SECONDS = 10.0


def _nothing() -> bool:
    return False


def _ignore(error: LlamaCffiError) -> None:
    pass


class Worker:
    """Calls ``step`` while that has something to do, and sleeps until :meth:`ring` when it has not.

    When ``step`` raises, ``failed`` is called with an :class:`EngineFailedError`, and the thread ends. It is a daemon:
    the interpreter does not wait for it, and stops what it computes before native objects are freed.
    """

    def __init__(self, step: Callable[[], bool], failed: Callable[[LlamaCffiError], object]) -> None:
        self._step = step
        self._failed = failed
        # Its put() may be interrupted by a call of itself: a finalizer may ring in the middle of another ring.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._asleep = False
        self._stopping = False
        self._retiring = False
        self.ended = False
        """Whether it takes no more steps. What was put into the inbox before this was set is done."""
        self._thread = start_daemon(self._work)

    def ring(self) -> None:
        """Wake the thread, because there is something to do."""
        if self._asleep:
            self._bell.put(None)

    def retire(self) -> None:
        """End when there is nothing to do. Takes no lock: a finalizer calls it."""
        self._retiring = True
        self._bell.put(None)

    def stop(self) -> None:
        """End after the step that runs, and wait for that, unless this is the thread itself."""
        self._stopping = True
        self._bell.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        try:
            while not self._stopping:
                self._asleep = False
                if self._step():
                    continue
                self._asleep = True
                self.ended = self._retiring
                # Notes that were put into the inbox before these two were set have not woken this thread.
                if self._step():
                    self.ended = False
                elif self.ended:
                    return
                else:
                    self._bell.get()
        except BaseException as error:
            if isinstance(error, SystemExit) and shutdown.begun():
                raise  # the interpreter is ending, and with it every thread that waits
            cause = EngineFailedError(f"the thread that computes has failed: {type(error).__name__}: {error}")
            cause.__cause__ = error
            self._failed(cause)
        finally:
            self.ended = True
            # They are methods of an engine, which is not to wait for a garbage collection.
            self._step, self._failed = _nothing, _ignore


__all__ = ["Worker"]
