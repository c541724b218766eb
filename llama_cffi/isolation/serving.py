"""The child's side: a Runtime, whose engine gets requests from a socket and whose chunks go back there."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from llama_cffi._native import log
from llama_cffi._util.worker import ThreadPool, start_daemon
from llama_cffi.core.adapter import LoraAdapter
from llama_cffi.core.control_vector import ControlVector
from llama_cffi.engine.media_content import MediaContent
from llama_cffi.engine.request import Request
from llama_cffi.errors import ClosedError, UnsupportedError
from llama_cffi.isolation.codec import Codec, Name
from llama_cffi.isolation.frames import Frame, Kind, Receiver, encode, plain
from llama_cffi.isolation.media import PROJECTOR_FACTS, RemoteChunk, pieces_of
from llama_cffi.isolation.room import Room
from llama_cffi.isolation.speech import Piece, Speeches
from llama_cffi.runtime import Runtime

if TYPE_CHECKING:
    from llama_cffi.core.media.place import Place
    from llama_cffi.engine.running_sequence import RunningSequence
    from llama_cffi.engine.speaker import SpeechRequest
    from llama_cffi.engine.telemetry import HistogramName
    from llama_cffi.prompt.media_parts import Medium

BEAT_SECONDS = 0.5
_N_CALLS = 16
"""Calls that may take long, side by side: vectors, scores, states."""
_N_COMPILING = 4
_N_VECTORS = 8
"""Control vectors that are kept, so that an equal one is the same one."""
CONTEXT_FACTS = ("n_ctx", "n_ctx_seq", "n_seq_max", "n_batch", "n_ubatch", "has_memory", "options")


class Cancelled(Exception):
    """Ends a call that is not wanted any more."""


class Outbox:
    """Sends frames whole, one after the other. Any thread may post one, also inside of another post."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames: deque[list[Any]] = deque()
        self._lock = threading.Lock()

    def post(self, frame: list[Any]) -> None:
        """Send a frame, or leave that to the thread that is sending."""
        self._frames.append(frame)
        # The lock is tried again after it was released: a frame that came meanwhile has found it taken.
        while self._frames and self._lock.acquire(blocking=False):
            try:
                with suppress(IndexError):
                    while True:
                        for part in self._frames.popleft():
                            self._sock.sendall(part)
            except OSError:
                os._exit(1)  # nothing else is left to do without the other process
            finally:
                self._lock.release()


class Forwarder(logging.Handler):
    """Sends log records to the other process."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: getattr(record, name) for name in ("name", "levelno", "levelname", "created", "threadName")}
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        fields |= {"msg": record.getMessage(), "exc_text": record.exc_text, "process": record.process}
        self._outbox.post(plain(Kind.LOG, 0, fields))


class Serving:
    """Answers frames until the socket is closed. What a path of a call begins with are attributes of this object."""

    runtime: Runtime

    def __init__(self, sock: socket.socket, parent: int) -> None:
        self._outbox = Outbox(sock)
        self._receiver = Receiver(sock)
        self._parent = parent
        self._codec = Codec(self._find, self._name)
        self._calls = ThreadPool(_N_CALLS)
        self._compiling = ThreadPool(_N_COMPILING)
        self._sequences: dict[int, RunningSequence] = {}
        self._requests: dict[int, Request] = {}
        self._numbers: dict[int, int] = {}
        """The numbers of requests, by their ``id()``."""
        self._begun: set[int] = set()
        """Requests of which something was sent."""
        self._active: set[int] = set()
        """Calls and requests that have not ended."""
        self._cancelled: set[int] = set()
        """Those of them that were cancelled."""
        self._told: dict[int, SimpleQueue[None]] = {}
        """Wakes calls that wait until their progress was noted."""
        self._speeches = Speeches()
        self._adapters: dict[int, LoraAdapter] = {}
        self._vectors: OrderedDict[str, ControlVector] = OrderedDict()
        logger = logging.getLogger("llama_cffi")
        logger.addHandler(Forwarder(self._outbox))
        logger.propagate = False

    def run(self) -> None:
        """Serve until the end of the socket, and then end the process."""
        start_daemon(self._beat)
        with suppress(OSError):
            while (frames := self._receiver.take()) is not None:
                for frame in frames:
                    self._handle(frame)
        os._exit(0)  # nothing here is worth a wait: the other process is gone, or has closed this one before

    def _handle(self, frame: Frame) -> None:
        kind, number, parts = frame
        if kind <= Kind.COMPILE:
            self._active.add(number)
        if kind == Kind.SUBMIT:
            self._submit(number, parts)
        elif kind == Kind.COMPILE:
            self._compiling.submit(lambda: self._submit(number, parts))
        elif kind == Kind.LOOK:
            self._answer(number, parts)
        elif kind == Kind.CALL:
            self._calls.submit(lambda: self._answer(number, parts))
        elif kind == Kind.CANCEL:
            self._cancel(number)
        elif kind == Kind.GO:
            self._go(number)
        elif kind == Kind.LEVELS:
            for name, level in pickle.loads(parts[0]).items():
                logging.getLogger(name).setLevel(level)
        elif kind == Kind.CLOSE:
            start_daemon(self._close)

    # -- the names of what both processes have

    def _name(self, thing: object) -> Name | None:
        number = self._numbers.get(id(thing)) if isinstance(thing, Request) else None
        return None if number is None else ("request", number)

    def _find(self, kind: str, *rest: Any) -> Any:
        if kind == "vocab":
            return self.runtime.model.vocab
        if kind == "pieces":
            return self.runtime.formats.pieces
        if kind == "draft":
            return self.runtime.defaults.drafts
        if kind == "adapter":
            return self._adapters[rest[0]]
        if kind == "media":
            medium, index, _, place, *_ = rest
            known = self.runtime.formats.media.content(medium, index, place)
            return known if known is not None and known.projector == rest[2] else MediaContent.of_state(*rest)
        fingerprint, data, hint = rest
        found = self._vectors.get(fingerprint)
        if found is None:
            found = self._vectors[fingerprint] = ControlVector(data, model_hint=hint)
        self._vectors.move_to_end(fingerprint)
        while len(self._vectors) > _N_VECTORS:
            self._vectors.popitem(last=False)
        return found

    # -- calls

    def _answer(self, number: int, parts: Any) -> None:
        try:
            path, wants_progress = self._codec.loads(parts)
            thing: Any = self
            for i, (name, *call) in enumerate(path):
                thing = getattr(thing, name)
                if call:
                    arguments, options = call
                    if wants_progress and i == len(path) - 1:
                        options = {**options, "progress": self._reporter(number, loading=name == "open")}
                    thing = thing(*arguments, **options)
            try:
                answer = self._codec.dumps(thing)
            except UnsupportedError as error:
                what = ".".join(name for name, *_ in path).removeprefix("runtime.")
                raise UnsupportedError(
                    f"isolate=True: {what} is in the process of the model, and only values can leave it: "
                    f"use isolate=False ({error.message.removeprefix('isolate=True: ')})"
                ) from None
        except BaseException as error:
            self._fail(number, error)
        else:
            self._outbox.post(encode(Kind.VALUE, number, answer))
        finally:
            self._end(number)

    def _end(self, number: int) -> None:
        self._active.discard(number)
        self._told.pop(number, None)
        self._cancelled.discard(number)

    def _reporter(self, number: int, *, loading: bool) -> Callable[[float], bool]:
        told = self._told[number] = SimpleQueue()

        def report(part: float) -> bool:
            self._outbox.post(plain(Kind.PROGRESS, number, part))
            told.get()
            if number in self._cancelled and not loading:
                raise Cancelled
            return number not in self._cancelled

        return report

    def _go(self, number: int) -> None:
        told = self._told.get(number)
        if told is not None:
            told.put(None)

    def _fail(self, number: int, error: BaseException) -> None:
        self._outbox.post(plain(Kind.ERROR, number, _sendable(error)))

    def open(self, model: Any, given: dict[str, Any], *, events: bool, progress: Any = None) -> dict[str, Any]:
        """Load the model, and return what the other process wants to know of it."""
        given = {**given, "driver": "thread"}
        if progress is not None:
            given["progress"] = progress
        if events:
            given["on_event"] = lambda event: self._outbox.post(plain(Kind.EVENT, 0, event))
        self.runtime = runtime = Runtime.open(model, given)
        context, projector = runtime.context, runtime.projector
        room = runtime.engine.room if runtime.generates else None
        return {
            "room": None if room is None else Room(**{name: getattr(room, name) for name in Room._fields}),
            "generates": runtime.generates,
            "drafts": runtime.draft is not None,
            "projector": None if projector is None else {name: getattr(projector, name) for name in PROJECTOR_FACTS},
            "context": {name: getattr(context, name) for name in CONTEXT_FACTS},
        }

    def tokenize_medium(self, medium: Medium, place: Place) -> list[list[int] | RemoteChunk]:
        """Return what stands for a medium at a place in a prompt, and keep what it is encoded from."""
        return pieces_of(self.runtime.formats.media.placed(medium, place))

    def projector_places(self) -> tuple[bool, int]:
        """Return whether images are numbered, and to how many tokens they are aligned."""
        projector = self.runtime.projector
        if projector is None or not projector.vision:
            return False, 1
        return projector.places.numbered, projector.places.alignment

    def load_adapter(self, number: int, path: str) -> None:
        """Load an adapter under a number of the other process's."""
        self._adapters[number] = LoraAdapter(self.runtime.model, path)

    def close_adapter(self, number: int) -> None:
        """Free an adapter; raises as :meth:`LoraAdapter.close`."""
        self._adapters[number].close()
        del self._adapters[number]

    def begin_speech(self, number: int, request: SpeechRequest) -> None:
        """Take a text to be read aloud under a number of the other process's."""
        self._speeches.begin(number, self.runtime.speaker, request)

    def speak_on(self, number: int) -> Piece | None:
        """Compute the next samples of a text, and return them; None for one that was cancelled."""
        return self._speeches.next(number)

    # -- requests

    def _submit(self, number: int, parts: Any) -> None:
        try:
            request: Request = self._codec.loads(parts)
            self._requests[number] = request
            self._numbers[id(request)] = number
            sequence = self.runtime.engine.submit(request, self._tell)
        except BaseException as error:
            self._forget(number)
            self._fail(number, error)
            return
        self._sequences[number] = sequence
        if number in self._cancelled:
            self.runtime.engine.cancel(sequence)
        self._outbox.post(plain(Kind.VALUE, number, None))
        if number not in self._requests:  # it has ended already
            self._forget(number)

    def _tell(self, sequences: list[RunningSequence]) -> None:
        """Send what a step has given to sequences, and that there is room; the engine calls it."""
        if not sequences:
            self._outbox.post(plain(Kind.ROOM, 0, None))
            return
        news: list[Any] = []
        for sequence in sequences:
            number = self._numbers.get(id(sequence.request))
            if number is None:
                continue
            chunks = sequence.chunks
            if number not in self._begun:
                self._begun.add(number)
                news.append((number, sequence.progress))
            while chunks:
                chunk = chunks.popleft()
                news.append((number, chunk.text, chunk.tokens, chunk.logprobs, chunk.completion))
            if sequence.done and not chunks:
                if sequence.error is not None:
                    news.append((number, _sendable(sequence.error)))
                self._forget(number)
        if news:
            self._outbox.post(plain(Kind.NEWS, 0, news))

    def _forget(self, number: int) -> None:
        request = self._requests.pop(number, None)
        if request is not None:
            self._numbers.pop(id(request), None)
        self._sequences.pop(number, None)
        self._begun.discard(number)
        self._end(number)

    def _cancel(self, number: int) -> None:
        if number in self._active:
            self._cancelled.add(number)
            self._go(number)
        sequence = self._sequences.get(number)
        if sequence is not None:
            self.runtime.engine.cancel(sequence)
        self._speeches.cancel(number)

    # -- life

    def _beat(self) -> None:
        stalled = n_steps = 0.0
        while os.getppid() == self._parent:
            time.sleep(BEAT_SECONDS)
            log.pump()
            n_now = self._n_steps()
            stalled, n_steps = (stalled + BEAT_SECONDS if n_now == n_steps else 0.0), n_now
            progress = {number: one.progress for number, one in list(self._sequences.items()) if not one.output}
            self._outbox.post(plain(Kind.BEAT, 0, (progress, self._speeches.computing, stalled)))
        os._exit(0)

    def _n_steps(self) -> float:
        """Steps of the engine and of speeches so far; never the same while there is nothing to compute."""
        runtime = getattr(self, "runtime", None)
        idle = not (self._sequences or self._speeches.computing)
        if runtime is None or not runtime.generates or runtime.closed or idle:
            return -time.monotonic()
        with suppress(ClosedError):
            counts = runtime.engine.snapshot().histograms
            kinds: tuple[HistogramName, ...] = ("decode_step", "prefill_step", "mixed_step")
            return float(sum(counts[kind].count for kind in kinds) + self._speeches.n_steps)
        return -time.monotonic()

    def _close(self) -> None:
        with suppress(BaseException):
            self.runtime.close()
        os._exit(0)


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error, 5))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


__all__ = ["BEAT_SECONDS", "CONTEXT_FACTS", "Serving"]
