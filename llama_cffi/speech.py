"""A text that a model reads aloud, as an iterator of pieces of sound."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi._util.closing import Closing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.core.media.audio import Audio
from llama_cffi.engine.speaker import SpeechJob
from llama_cffi.errors import AbortedError, MediaError
from llama_cffi.prepare.speech import prepare_speech
from llama_cffi.reply.completion import FinishReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.runtime import Runtime
    from llama_cffi.spec import SpeakSpec


class SpeechStream(Closing, ProcessBound, Iterator["NDArray[np.float32]"]):
    """The sound of a text, as an iterator of pieces: float32 arrays of one dimension with samples from -1 to 1.

    The thread that reads computes; texts and conversations of the same Llama go on meanwhile. One text of a model is
    spoken at a time: a second stream waits at its first piece for the end of the first one. Closing the stream ends
    it within a frame, and ``with`` closes it.
    """

    _instead_of_pickling = "send its pieces"
    _instead_of_copying = "start another one"

    def __init__(self, job: SpeechJob) -> None:
        self._job = job
        # A stream that is not read any more must not keep others waiting.
        weakref.finalize(self, job.cancel).atexit = False

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self._job.sample_rate

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the sound has ended: the model has said everything (``stop``), ``max_frames`` or the context was full
        (``length``), ``max_seconds`` has passed (``deadline``), or it was ``cancelled``; None before its end."""
        return self._job.finish_reason

    @property
    def n_frames(self) -> int:
        """Frames that were generated so far."""
        return self._job.n_frames

    @property
    def n_prompt(self) -> int:
        """Positions that text and voice have taken; 0 before the first piece."""
        return self._job.n_prompt

    def __next__(self) -> NDArray[np.float32]:
        """Return the next piece; raises the errors of :meth:`Llama.speak` that come up while computing."""
        piece = self._job.next_piece()
        if piece is None:
            raise StopIteration
        return piece

    def result(self) -> Audio:
        """Read to the end and return what was not read before as one sound.

        Raises :class:`AbortedError` where there is none, because it was cancelled or its time was over first, and
        :class:`MediaError` where the model has said nothing.
        """
        return joined(list(self), self)

    def close(self) -> None:
        """End it, if it has not ended. Any thread may call it."""
        self._job.cancel()


def joined(pieces: list[NDArray[np.float32]], stream: SpeechStream) -> Audio:
    """Return pieces as one sound; raises the errors of :meth:`SpeechStream.result`."""
    if not pieces:
        if stream.finish_reason is FinishReason.STOP:
            raise MediaError("the model has ended the speech before its first sound")
        raise AbortedError(f"there is no sound: the speech has ended with the reason {stream.finish_reason}")
    return Audio(np.concatenate(pieces), stream.sample_rate)


def speak(spec: SpeakSpec, runtime: Runtime) -> SpeechStream:
    """Return the stream of a text; raises the errors of :meth:`Llama.speak` before computing."""
    speaker = runtime.speaker
    request = prepare_speech(spec, runtime.model.vocab, speaker.n_ctx, speaker.projector, runtime.defaults)
    return SpeechStream(SpeechJob(speaker, request))


__all__ = ["SpeechStream", "joined", "speak"]
