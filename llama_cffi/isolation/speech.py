"""Texts that another process reads aloud, a piece at a time."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, cast

from llama_cffi.engine.speech_job import SpeechJob
from llama_cffi.errors import EngineCrashed
from llama_cffi.isolation.frames import Kind
from llama_cffi.reply.completion import FinishReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.media.projector import Projector
    from llama_cffi.engine.speaker import LocalSpeech, Speaker, SpeechRequest
    from llama_cffi.isolation.link import Link
    from llama_cffi.isolation.media import RemoteProjector
    from llama_cffi.isolation.supervisor import Supervisor

_REPEATS = 1
"""How often a speech is begun again after a crash."""


class Piece(NamedTuple):
    """What a speech has given, and where it is."""

    samples: NDArray[np.float32] | None
    n_frames: int
    n_prompt: int
    ended: bool
    finish_reason: FinishReason | None


class RemoteSpeaker:
    """As :class:`Speaker`, whose context is in the other process."""

    def __init__(self, supervisor: Supervisor, projector: RemoteProjector) -> None:
        self._supervisor = supervisor
        self.projector = cast("Projector", projector)
        self.sample_rate: int = projector.speech_rate
        self.n_ctx: int = supervisor.facts["context"]["n_ctx_seq"]

    def start(self, request: SpeechRequest) -> RemoteSpeech:
        """As :meth:`Speaker.start`."""
        return RemoteSpeech(self._supervisor, self.projector, request)


class RemoteSpeech(SpeechJob):
    """A text that the other process computes while it is read.

    It takes its turn in this process, so that one that waits takes no thread of the other one.
    """

    def __init__(self, supervisor: Supervisor, projector: Projector, request: SpeechRequest) -> None:
        assert projector.speech_rate is not None
        super().__init__(projector.speech_turn, projector.speech_rate, request.max_seconds)
        self._supervisor, self._request = supervisor, request
        self._number = 0
        self._link: Link | None = None
        """The process that speaks it."""
        self._n_repeats = 0
        self._given = False

    def _advance(self) -> NDArray[np.float32] | None:
        while True:
            try:
                reason = self._begin() if self._link is None else None
                if reason is not None:
                    self._end(reason)
                    return None
                return self._next()
            except EngineCrashed:
                if self._given or not self._supervisor.replays or self._n_repeats >= _REPEATS:
                    raise
                self._n_repeats += 1
                self._link = None

    def _begin(self) -> FinishReason | None:
        """Take the turn and send the text; returns why nothing can be spoken."""
        reason = self._take_turn()
        if reason is not None:
            return reason
        supervisor, request = self._supervisor, self._request
        link = supervisor.process()
        if self._deadline is not None:
            # The other process may have another clock.
            request = replace(request, max_seconds=max(1e-3, self._deadline - monotonic()))
        self._number, self._link = supervisor.next_number(), link
        supervisor.call(("begin_speech", (self._number, request), {}), link=link, look=True)
        if self._cancelled:  # maybe before there was anything to end
            self._abort()
        return None

    def _next(self) -> NDArray[np.float32] | None:
        link = self._link
        assert link is not None
        self._supervisor.check_open()
        if link.ended:
            raise copy(link.crash)
        piece: Piece | None = self._supervisor.call(("speak_on", (self._number,), {}), link=link)
        if piece is None:
            self._end(FinishReason.CANCELLED)
            return None
        self.n_frames, self.n_prompt = piece.n_frames, piece.n_prompt
        if piece.ended:
            self._end(piece.finish_reason)
        self._given = self._given or piece.samples is not None
        return piece.samples

    def _abort(self) -> None:
        link, number = self._link, self._number
        if link is not None and not self.ended:
            link.post(Kind.CANCEL, number)

    _release = _abort


class Speeches:
    """What the other process is speaking, by the numbers of this one."""

    def __init__(self) -> None:
        self._jobs: dict[int, LocalSpeech] = {}
        self._computing: dict[LocalSpeech, int] = {}
        """Those of which a piece is computed, with their steps before it."""
        self._n_steps = 0

    def begin(self, number: int, speaker: Speaker, request: SpeechRequest) -> None:
        """Take a text, of which nothing is computed yet."""
        self._jobs[number] = speaker.start(request)

    def next(self, number: int) -> Piece | None:
        """Compute the next samples of a text, and return them; None for one that was cancelled.

        Raises as :meth:`SpeechJob.next_piece`.
        """
        job = self._jobs.get(number)
        if job is None:
            return None
        self._computing[job] = before = job.n_steps
        try:
            samples = job.next_piece()
        finally:
            self._n_steps += job.n_steps - before
            del self._computing[job]
            if job.ended:
                self._jobs.pop(number, None)
        return Piece(samples, job.n_frames, job.n_prompt, job.ended, job.finish_reason)

    def cancel(self, number: int) -> None:
        """End a text, if it is one."""
        job = self._jobs.pop(number, None)
        if job is not None:
            job.cancel()

    @property
    def computing(self) -> bool:
        """Whether there is anything to compute now."""
        return bool(self._computing)

    @property
    def n_steps(self) -> int:
        """Native computations so far."""
        return self._n_steps + sum(job.n_steps - before for job, before in list(self._computing.items()))


__all__ = ["Piece", "RemoteSpeaker", "RemoteSpeech", "Speeches"]
