"""A text that a model reads aloud, as an iterator of pieces of sound."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi._util.closing import Closing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.signatures import takes_options
from llama_cffi.core.media.audio import Audio
from llama_cffi.engine.speech_job import SpeechJob
from llama_cffi.errors import AbortedError, MediaError
from llama_cffi.options import SpeechOptions
from llama_cffi.prepare.speech import prepare_speech
from llama_cffi.reply.completion import FinishReason
from llama_cffi.spec import SpeakSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.runtime import Runtime


class SpeechStream(Closing, ProcessBound, Iterator["NDArray[np.float32]"]):
    """The sound of a text, as an iterator of pieces: float32 arrays of one dimension with samples from -1 to 1.

    The thread that reads computes, or the process of the model while it reads; texts and conversations of the same
    Llama go on meanwhile. One text of a model is spoken at a time: a second stream waits at its first piece for the end
    of the first one. Closing the stream ends it within a frame, and ``with`` closes it.
    """

    _instead_of_pickling = "send its pieces"
    _instead_of_copying = "start another one"

    def __init__(self, job: SpeechJob) -> None:
        self._job = job
        # A stream that is not read any more must not keep others waiting.
        self._dropped = weakref.finalize(self, job.cancel)
        self._dropped.atexit = False

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
        # What a signal handler raises in a finalizer is lost: none is left where there is nothing to do.
        self._dropped.detach()


def joined(pieces: list[NDArray[np.float32]], stream: SpeechStream) -> Audio:
    """Return pieces as one sound; raises the errors of :meth:`SpeechStream.result`."""
    if not pieces:
        if stream.finish_reason is FinishReason.STOP:
            raise MediaError("the model has ended the speech before its first sound")
        raise AbortedError(f"there is no sound: the speech has ended with the reason {stream.finish_reason}")
    return Audio(np.concatenate(pieces), stream.sample_rate)


def speak(asked: SpeakSpec, runtime: Runtime) -> SpeechStream:
    """Return the stream of a text; raises the errors of :meth:`Llama.speak` before computing."""
    speaker = runtime.speaker
    request = prepare_speech(asked, runtime.model.vocab, speaker.n_ctx, speaker.projector, runtime.defaults)
    return SpeechStream(speaker.start(request))


class Speaking:
    """The methods of a :class:`~llama_cffi.Llama` that speak."""

    _runtime: Runtime

    @takes_options(SpeechOptions)
    def speak(self, text: str, **options: Unpack[SpeechOptions]) -> Audio:
        """Read a text aloud, with a model that speaks, and return the sound: float32 samples with their rate.

        Nothing in the text is read as a control token. Raises, before anything is computed,
        :class:`UnsupportedError` for a model that does not speak, or does not imitate the ``voice``,
        :class:`PromptError` for an empty text and :class:`ContextOverflowError` for one that is too long, and
        :class:`MediaError` for a voice that is not a sound or is too long; while computing, :class:`MediaError` with
        libmtmd's reason, for example for an unknown language, and :class:`AbortedError` where ``max_seconds`` have
        passed before the first sound. :meth:`stream_speech` tells how the sound ended.
        """
        with self.stream_speech(text, **options) as stream:
            return stream.result()

    @takes_options(SpeechOptions)
    def stream_speech(self, text: str, **options: Unpack[SpeechOptions]) -> SpeechStream:
        """Read a text aloud as an iterator of pieces of sound, which come as soon as they are computed.

        The errors that :meth:`speak` raises before computing are raised by this call. Closing the stream ends it.
        """
        return speak(SpeakSpec(text, options), self._runtime)


__all__ = ["Speaking", "SpeechStream", "joined", "speak"]
