"""Keeps a process for one model: starts it, again after a crash, and brings calls and answers together."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from llama_cffi._util.fork import made_elsewhere
from llama_cffi.engine.media_content import MediaContent
from llama_cffi.errors import BusyError, ClosedError, EngineCrashed
from llama_cffi.isolation.codec import Codec
from llama_cffi.isolation.frames import Frame, Kind
from llama_cffi.isolation.link import Link
from llama_cffi.isolation.requests import Requests, error_of

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.engine.telemetry import OnEvent

MAX_CRASHES = 5
"""Crashes in a row, with nothing finished in between, after which no process is started any more."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
"""Seconds between a second crash in a row and the next start, doubled with each further one."""
STALLED_SECONDS, STALLED_TOKEN_SECONDS = 60.0, 20.0
"""A step of a model over RPC that takes longer hangs: llama.cpp waits for a server without a limit. The second is for a
step that computes no prompt and no sound, but one token of each text."""
_EXIT_SECONDS = 5.0
_LOGGERS = ("llama_cffi", "llama_cffi.native", "llama_cffi.engine", "llama_cffi.prompt_cache")

Step = tuple[Any, ...]
"""A step of a path in the other process: an attribute's name, and for a call its arguments and options."""

_log = logging.getLogger("llama_cffi.isolation")


class TimedOut(Exception):
    """There was no answer in time."""


@dataclass(eq=False)
class _Call:
    link: Link
    answers: SimpleQueue[tuple[int, Any]] = field(default_factory=SimpleQueue)


class Supervisor:
    """The process of one model, and everything that waits for it. Any thread may use it."""

    def __init__(
        self,
        model: Any,
        given: Mapping[str, Any],
        *,
        replay: bool,
        on_event: OnEvent | None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._model, self._descriptors = model, descriptors
        self._given = dict(given)
        self._on_event = on_event
        over_rpc = given.get("rpc") or getattr(given.get("model_options"), "rpc", ())
        self._over_rpc = bool(over_rpc)
        self._cwd = os.getcwd()
        self._process = os.getpid()
        # Reentrant, so that a signal handler that comes in while a process starts does not wait for itself.
        self._lock = threading.RLock()
        self._starting = False
        self._link: Link | None = None
        self._numbers = count(1)
        self._calls: dict[int, _Call] = {}
        self._crash: EngineCrashed | None = None
        self._n_crashes = 0
        self._not_before = 0.0
        self._levels: dict[str, int] = {}
        self.adapters: weakref.WeakValueDictionary[int, LoraAdapter] = weakref.WeakValueDictionary()
        """The adapters that every new process loads."""
        self.closed = False
        self.codec = Codec(self._find)
        self.replays = replay
        """Whether what has only begun is repeated after a crash."""
        self.requests = Requests(self.codec, self.process, replay=replay, slow="prompt_cache" in given)
        self._processes: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end_at_exit, self._processes, self._process)
        self.facts: dict[str, Any] = {}
        """What the process has said of its model."""

    # -- the process

    def open(self, progress: Callable[[float], object] | None = None) -> None:
        """Start the process and load the model; raises what that raises."""
        with self._lock:
            self._start(progress)

    @property
    def failed(self) -> bool:
        """Whether no process is started any more."""
        return self._n_crashes >= MAX_CRASHES

    @property
    def running(self) -> bool:
        """Whether there is a process with the model."""
        return self._link is not None and not self._link.ended

    @property
    def pid(self) -> int | None:
        """The process id of the process; None while there is none."""
        link = self._link
        return None if link is None or link.ended else link.pid

    def check_open(self) -> None:
        """Raise :class:`ClosedError` when it is closed, and :class:`ContextError` in a forked child process."""
        if self.closed:
            raise ClosedError("this Llama is closed")
        if self._process != os.getpid():
            raise made_elsewhere("Llama")

    def process(self) -> Link:
        """Return the process, which is started where there is none."""
        self.check_open()
        link = self._link
        if link is None or link.ended:
            with self._lock:
                if self._starting:
                    raise BusyError("a signal handler cannot use a model whose process is being started")
                link = self._link
                if link is None or link.ended:
                    link = self._restart()
        if link.is_here:
            raise BusyError("a log handler, on_event or a finalizer cannot wait for the process that it was called for")
        self._send_levels(link)
        return link

    def _restart(self) -> Link:
        if self._crash is not None and self.failed:
            error = copy(self._crash)
            error.message += f"; {MAX_CRASHES} times in a row, so it is not started again: open the model anew"
            raise error
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        return self._start()

    def _start(self, progress: Callable[[float], object] | None = None) -> Link:
        link = Link(self._take, self._end, self._cwd, self._descriptors)
        self._processes[:] = [link.process]
        self._starting = True
        try:
            self._levels = {}
            self._send_levels(link)
            options = {"events": self._on_event is not None}
            step: Step = ("open", (self._model, self._given), options)
            self.facts = self._evaluate(link, (step,), progress, loading=True)
            for number, adapter in list(self.adapters.items()):
                self._evaluate(link, (("load_adapter", (number, str(adapter.path)), {}),))
        except BaseException:
            link.discard()
            raise
        finally:
            self._starting = False
        self._link = link
        if self.closed:  # meanwhile, by another thread
            link.close()
            raise ClosedError("this Llama is closed")
        return link

    def _send_levels(self, link: Link) -> None:
        levels = {name: logging.getLogger(name).getEffectiveLevel() for name in _LOGGERS}
        if levels != self._levels:
            self._levels = levels
            link.post(Kind.LEVELS, 0, [pickle.dumps(levels)])

    def close(self) -> None:
        """End every call and request with :class:`ClosedError`, and let the process end. Waits for nothing."""
        self.closed = True
        link = self._link
        if link is not None and self._process == os.getpid():
            link.close()
        error = ClosedError("this Llama is closed")
        for call in list(self._calls.values()):
            call.answers.put((Kind.ERROR, error))
        self.requests.close(error)

    def wait(self) -> None:
        """Wait until the process has ended and its memory is free, after :meth:`close`."""
        link = self._link
        if link is not None and not link.is_here and self._process == os.getpid():
            link.wait()

    # -- calls

    def next_number(self) -> int:
        """Return a number for a request."""
        return next(self._numbers)

    def call(
        self,
        *path: Step,
        progress: Callable[[float], object] | None = None,
        timeout: float | None = None,
        look: bool = False,
        link: Link | None = None,
    ) -> Any:
        """Return the value of a path in the other process; raises what that raises, and :class:`EngineCrashed`.

        ``look`` is for what takes only a moment there, and ``link`` for what only one process can answer. Raises
        :class:`TimedOut` after ``timeout`` seconds.
        """
        value = self._evaluate(link or self.process(), path, progress, timeout=timeout, look=look)
        if not look:
            self._n_crashes = 0
        return value

    def _evaluate(
        self,
        link: Link,
        path: tuple[Step, ...],
        progress: Callable[[float], object] | None = None,
        *,
        timeout: float | None = None,
        look: bool = False,
        loading: bool = False,
    ) -> Any:
        parts = self.codec.dumps((path, progress is not None))
        number, call = next(self._numbers), _Call(link)
        self._calls[number] = call
        answered = False
        try:
            link.post(Kind.LOOK if look else Kind.CALL, number, parts)
            if link.ended:  # maybe before the call was noted
                call.answers.put((Kind.ERROR, copy(link.crash)))
            while True:
                try:
                    kind, answer = call.answers.get(timeout=timeout)
                except Empty:
                    raise TimedOut from None
                if kind != Kind.PROGRESS:
                    break
                goes_on = progress is None or progress(pickle.loads(answer[0])) is not False or not loading
                link.post(Kind.GO if goes_on else Kind.CANCEL, number)
            answered = True
        finally:
            self._calls.pop(number, None)
            if not answered:
                link.post(Kind.CANCEL, number)
        if kind == Kind.VALUE:
            return self.codec.loads(answer)
        raise answer if isinstance(answer, BaseException) else error_of(answer)

    # -- on the thread of a process

    def _take(self, link: Link, frame: Frame) -> None:
        kind, number, parts = frame
        if kind == Kind.NEWS:
            if self.requests.take(pickle.loads(parts[0])):
                self._n_crashes = 0
        elif number:
            call = self._calls.get(number)
            if call is not None:
                call.answers.put((kind, parts))
            else:
                self.requests.answered(number, error_of(parts) if kind == Kind.ERROR else None)
        elif kind == Kind.ROOM:
            self.requests.tell_of_room()
        elif kind == Kind.LOG:
            fields = pickle.loads(parts[0])
            link.lines.append(fields["msg"])
            logger = logging.getLogger(fields["name"])
            if logger.isEnabledFor(fields["levelno"]):
                logger.handle(logging.makeLogRecord(fields))
        elif kind == Kind.EVENT and self._on_event is not None:
            try:
                self._on_event(pickle.loads(parts[0]))
            except Exception:
                _log.exception("on_event has failed")
        elif kind == Kind.BEAT:
            progress, speaks, stalled = pickle.loads(parts[0])
            self.requests.told(progress)
            if self._over_rpc and stalled > (STALLED_SECONDS if progress or speaks else STALLED_TOKEN_SECONDS):
                link.kill(f"a step of the model has not ended in {stalled:.0f} seconds: an RPC server does not answer")

    def _end(self, link: Link) -> None:
        """A process has ended: everything that waits for it gets the reason, or is repeated."""
        crash = link.crash
        if not self.closed and not link.discarded:
            self._crash = crash
            self._n_crashes += 1
            pause = 0.0 if self._n_crashes < 2 else _FIRST_PAUSE * 2.0 ** (self._n_crashes - 2)
            self._not_before = time.monotonic() + min(pause, _LONGEST_PAUSE)
        for call in list(self._calls.values()):
            if call.link is link:
                call.answers.put((Kind.ERROR, copy(crash)))
        self.requests.lose(link)

    def _find(self, kind: str, *rest: Any) -> Any:
        if kind == "media":
            return MediaContent.of_state(*rest)
        return self.requests.find(rest[0]) if kind == "request" else None


def _end_at_exit(processes: list[subprocess.Popen[bytes]], owner: int) -> None:
    """End the process when the interpreter ends: its thread may not live to do that."""
    for process in processes if os.getpid() == owner else ():
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_EXIT_SECONDS)


__all__ = ["MAX_CRASHES", "STALLED_SECONDS", "STALLED_TOKEN_SECONDS", "Step", "Supervisor", "TimedOut"]
