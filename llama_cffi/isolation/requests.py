"""The requests that another process computes: sent, answered, ended with it or repeated."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_cffi._util.fork import fork_safe
from llama_cffi._util.worker import start_daemon
from llama_cffi.errors import QueueFullError
from llama_cffi.isolation.frames import Kind

if TYPE_CHECKING:
    from llama_cffi.engine.request import Request
    from llama_cffi.engine.running_sequence import Listener
    from llama_cffi.isolation.codec import Codec
    from llama_cffi.isolation.link import Link
    from llama_cffi.isolation.remote_sequence import RemoteSequence
    from llama_cffi.reply.completion import TextProgress

_REPEATS = 1
"""How often a request is repeated after a crash."""


class Requests:
    """The requests of one model, whichever process computes them. ``alive`` returns the process of now.

    With ``replay`` a request is repeated after a crash if nothing of it was given. ``slow`` says that every request may
    wait for the disk when it is taken.
    """

    def __init__(self, codec: Codec, alive: Callable[[], Link], *, replay: bool, slow: bool) -> None:
        self._codec = codec
        self._alive = alive
        self._replay = replay
        self._slow = slow
        self._sequences: dict[int, RemoteSequence] = {}
        self._refused: set[Listener] = set()
        """Listeners of requests for which there was no room."""
        self._n_rooms = 0
        """How often the other process has said that fewer requests wait."""
        # Two threads may find out that a process has ended. Reentrant for signal handlers.
        self._losing = fork_safe(threading.RLock())

    def submit(self, sequence: RemoteSequence) -> None:
        """Send a request, and return when the other process has taken it; raises what is wrong with it."""
        n_rooms = self._n_rooms
        self._post(self._alive(), sequence)
        try:
            error = sequence.answer.get()
        except BaseException:
            self._sequences.pop(sequence.number, None)
            self.cancel(sequence)
            raise
        if error is not None:
            self._sequences.pop(sequence.number, None)
            if isinstance(error, QueueFullError):
                self._refused.update(sequence.listeners)
                if self._n_rooms != n_rooms:  # it was said while the refusal came
                    self._tell_refused()
            raise error

    def _post(self, link: Link, sequence: RemoteSequence) -> None:
        request = sequence.request_now()
        parts = self._codec.dumps(request)
        sequence.link = link
        self._sequences[sequence.number] = sequence
        slow = self._slow or request.constraint is not None
        link.post(Kind.COMPILE if slow else Kind.SUBMIT, sequence.number, parts)
        if link.ended:  # maybe before the request was noted
            self.lose(link)
        elif sequence.unwanted:
            link.post(Kind.CANCEL, sequence.number)

    def cancel(self, sequence: RemoteSequence) -> None:
        """End a request. Takes no lock: a finalizer may call it."""
        sequence.unwanted = True
        link = sequence.link
        if link is not None and not sequence.done:
            link.post(Kind.CANCEL, sequence.number)

    def find(self, number: int) -> Request | None:
        """Return the request with a number that has not ended."""
        sequence = self._sequences.get(number)
        return None if sequence is None else sequence.request

    # -- on the thread of a process

    def take(self, news: Iterable[Any]) -> bool:
        """Add what a step has given; returns whether a text is complete."""
        changed: dict[RemoteSequence, None] = {}
        for item in news:
            sequence = self._sequences.get(item[0])
            if sequence is not None:
                sequence.take(item)
                changed[sequence] = None
        completed = False
        for sequence in changed:
            if sequence.done:
                completed = completed or sequence.error is None
                self._accepted(sequence)
                self._sequences.pop(sequence.number, None)
        _tell(changed)
        return completed

    def answered(self, number: int, error: BaseException | None) -> None:
        """A request was taken, or refused with an error."""
        sequence = self._sequences.get(number)
        if sequence is None:
            return
        if error is not None:
            self._fail([sequence], error)
        else:
            self._accepted(sequence)

    def tell_of_room(self) -> None:
        """Fewer requests wait than when one was refused."""
        self._n_rooms += 1
        self._tell_refused()

    def _tell_refused(self) -> None:
        with suppress(KeyError):
            while True:
                self._refused.pop()([])

    def told(self, progress: Mapping[int, TextProgress]) -> None:
        """Take how far prompts are."""
        for number, one in progress.items():
            sequence = self._sequences.get(number)
            if sequence is not None:
                sequence.told(one)

    def _accepted(self, sequence: RemoteSequence) -> None:
        if not sequence.taken:
            sequence.taken = True
            sequence.answer.put(None)

    # -- ends

    def close(self, error: BaseException) -> None:
        """End all requests with an error."""
        self._replay = False
        self._fail(list(self._sequences.values()), error)
        self.tell_of_room()

    def lose(self, link: Link) -> None:
        """A process has ended: its requests end with the reason, or are repeated by another one."""
        with self._losing:
            lost = [one for one in list(self._sequences.values()) if one.link is link]
            again = [one for one in lost if self._repeats(one)]
            for sequence in again:
                sequence.link = None
                sequence.restart()
            self._fail([one for one in lost if one.link is link], link.crash)
        self.tell_of_room()
        if again:
            start_daemon(partial(self._repeat, again))

    def _repeats(self, sequence: RemoteSequence) -> bool:
        wanted = self._replay and not sequence.unwanted and sequence.n_repeats < _REPEATS
        return wanted and (sequence.repeatable or not sequence.given)

    def _repeat(self, sequences: Sequence[RemoteSequence]) -> None:
        try:
            link = self._alive()
            for sequence in sequences:
                self._post(link, sequence)
        except BaseException as error:
            self._fail([one for one in sequences if one.link is None], error)

    def _fail(self, sequences: Sequence[RemoteSequence], error: BaseException) -> None:
        for sequence in sequences:
            self._sequences.pop(sequence.number, None)
            sequence.fail(copy(error))
            if not sequence.taken:
                sequence.answer.put(copy(error))
        _tell(sequences)


def error_of(parts: Sequence[Any]) -> BaseException:
    """Return the exception of the other process, or one that says why it cannot be read."""
    try:
        error = pickle.loads(parts[0])
    except Exception as failure:
        return RuntimeError(f"the process of the model raised what cannot be read here: {failure}")
    return error if isinstance(error, BaseException) else RuntimeError(str(error))


def _tell(changed: Iterable[RemoteSequence]) -> None:
    told: dict[Listener, list[Any]] = {}
    for sequence in changed:
        for listener in sequence.listeners:
            told.setdefault(listener, []).append(sequence)
    for listener, sequences in told.items():
        listener(sequences)


__all__ = ["Requests", "error_of"]
