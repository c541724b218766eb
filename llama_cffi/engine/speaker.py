"""Texts that a model reads aloud, one after another, on a context beside the engine's."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from llama_cffi._util.fork import fork_safe
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.context import Context
from llama_cffi.core.media.limits import MAX_SECONDS
from llama_cffi.core.media.speech import SpeechGenerator
from llama_cffi.core.sampler.chain import SamplerChain
from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.engine.sequence_samplers import chain_samplers, suppressed_tokens
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import AbortedError, BusyError, ClosedError, UnsupportedError
from llama_cffi.reply.completion import FinishReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.media.audio import Audio
    from llama_cffi.core.media.projector import Projector

_READ_TOKENS = 64
"""Tokens of a prompt that are computed before cancelling is looked at again."""
_UBATCH = 128
"""Tokens that are computed at once at most: each of them is an output row, with logits."""


@dataclass(frozen=True)
class SpeechRequest:
    """A text to be spoken, and how."""

    text: str
    """Control tokens in it count as such."""
    seed: int
    voice: Audio | None = None
    language: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_frames: int | None = None
    max_seconds: float | None = None
    conditioning: Conditioning = PLAIN


class Speaker:
    """Speaks with a projector; ``like`` is the pattern of its context, which is made at the first text."""

    def __init__(self, like: Context, projector: Projector) -> None:
        if projector.speech is None or projector.speech_rate is None:
            raise UnsupportedError(f"{projector.path.name} generates no speech: this model does not speak")
        self._like, self.projector = like, projector
        self.sample_rate: int = projector.speech_rate
        """Samples per second."""
        self.n_ctx = like.n_ctx_seq
        """Positions that a text, a voice and the frames may take together."""
        # Reentrant: a signal handler may close in the middle of an opening.
        self._lock = fork_safe(threading.RLock())
        self._side: SideContext | None = None
        self._generator: SpeechGenerator | None = None
        self._closed = False

    def open(self) -> tuple[SideContext, SpeechGenerator]:
        """Return what computes, made at the first call; raises the errors of :class:`Context`."""
        with self._lock:
            if self._closed or self._like.closed:
                raise ClosedError("this Llama is closed")
            if self._side is None:
                like = self._like
                options = replace(
                    like.options, n_ctx=like.n_ctx_seq, n_ctx_seq=None, n_batch=like.n_ctx_seq,
                    n_ubatch=min(like.n_ubatch, _UBATCH), n_seq_max=1, kv_unified=True, embeddings=True, pooling="none",
                )  # fmt: skip
                side = SideContext(like.model, options)
                if self._closed:
                    side.close()
                    raise ClosedError("this Llama is closed")
                self._side = side
            if self._generator is None:
                self._generator = SpeechGenerator(self._side.context, self.projector)
            return self._side, self._generator

    def close(self) -> None:
        """Stop what is computed and free the context. Idempotent."""
        with self._lock:
            self._closed = True
        if self._side is not None:
            self._side.close()


class SpeechJob:
    """A text that is being spoken. It waits for its turn at the first piece; the thread that reads computes."""

    def __init__(self, speaker: Speaker, request: SpeechRequest) -> None:
        self._speaker, self._request = speaker, request
        self._turn = speaker.projector.speech_turn
        self._deadline = None if request.max_seconds is None else monotonic() + request.max_seconds
        self.sample_rate = speaker.sample_rate
        """Samples per second."""
        self.finish_reason: FinishReason | None = None
        """Why it has ended; None before, and when it has failed."""
        self.n_frames = 0
        """Frames that were generated."""
        self.n_prompt = 0
        """Positions that text and voice have taken."""
        self.ended = False
        """Whether there is nothing more of it."""
        self.thread = 0
        """The thread that has read last."""
        self._n_samples = 0
        self._cancelled = False
        # Reentrant: a signal handler may cancel in the middle.
        self._lock = fork_safe(threading.RLock())
        self._reader: object = None
        self._parts: tuple[SideContext, SpeechGenerator, SamplerChain] | None = None

    def next_piece(self) -> NDArray[np.float32] | None:
        """Return the next samples, float32 from -1 to 1 of shape ``(n,)``; None at the end.

        Raises the errors of :meth:`SpeechGenerator.start` and :meth:`SpeechGenerator.step`, and :class:`BusyError`
        while another thread is reading, and where this thread has begun another speech that has not ended.
        """
        me = object()
        try:
            if not self._claim(me):
                raise BusyError("another thread is reading this speech")
            try:
                return None if self.ended else self._advance()
            except BaseException:
                self._end(None)
                raise
        finally:
            # No calls: a signal handler would run after them.
            if self._reader is me:
                self._reader = None
            if self._cancelled:
                self._end_if_idle()

    def _claim(self, reader: object) -> bool:
        """Let a reader be the only one; False where there is one."""
        with self._lock:
            if self._reader is None:
                self._reader = reader
            return self._reader is reader

    def cancel(self) -> None:
        """End it, within a frame if it is being computed. Any thread may call it; idempotent."""
        self._cancelled = True
        parts = self._parts
        if parts is not None:
            parts[1].abort()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        me = object()
        try:
            if not self.ended and self._claim(me):
                self._end(FinishReason.CANCELLED)
        finally:
            if self._reader is me:
                self._reader = None

    def _advance(self) -> NDArray[np.float32] | None:
        self.thread = threading.get_ident()
        try:
            if self._parts is None:
                reason = self._begin()
                if reason is not None:
                    return self._last(reason)
            return self._generate()
        except AbortedError:
            if self._cancelled:
                return self._last(FinishReason.CANCELLED)
            if self._late():
                return self._last(FinishReason.DEADLINE)
            raise

    def _begin(self) -> FinishReason | None:
        """Take the turn and read the text; returns why nothing can be spoken."""
        request = self._request
        if not self._turn.take(self, lambda: self._cancelled, self._deadline):
            return FinishReason.CANCELLED if self._cancelled else FinishReason.DEADLINE
        side, generator = self._speaker.open()
        context, sampling = side.context, request.sampling
        samplers = chain_samplers(sampling, request.seed, suppressed_tokens(context))
        self._parts = side, generator, SamplerChain(samplers, context.model.vocab)
        greedy = sampling.temperature <= 0
        with side.conditioned(self._request.conditioning):
            generator.start(
                request.text,
                voice=request.voice,
                language=request.language,
                top_k=1 if greedy else max(sampling.top_k, 0),
                top_p=sampling.top_p,
                seed=request.seed,
                deadline=self._deadline,
            )
            more = True
            while more and (reason := self._limit(generator)) is None:
                more = generator.read(_READ_TOKENS, deadline=self._deadline)
            self.n_prompt = generator.n_past
        return reason if more else None

    def _generate(self) -> NDArray[np.float32] | None:
        """Generate frames until there is a piece, or the end."""
        assert self._parts is not None
        side, generator, chain = self._parts
        while (reason := self._limit(generator)) is None:
            with side.conditioned(self._request.conditioning):
                token = chain.sample(side.context)
                # No deadline here: what is stopped in the middle leaves noise.
                if not generator.step(token):
                    reason = FinishReason.STOP
                    break
                self.n_frames += 1
                if generator.settled:
                    piece = self._samples(generator)
                    if len(piece):
                        return piece
        return self._last(reason)

    def _limit(self, generator: SpeechGenerator) -> FinishReason | None:
        """Return why the speech ends before its next frame, if it does."""
        if self._cancelled:
            return FinishReason.CANCELLED
        if self._late():
            return FinishReason.DEADLINE
        most = self._request.max_frames
        full = generator.n_past >= self._speaker.n_ctx or self._n_samples >= MAX_SECONDS * self.sample_rate
        return FinishReason.LENGTH if full or (most is not None and self.n_frames >= most) else None

    def _late(self) -> bool:
        return self._deadline is not None and monotonic() >= self._deadline

    def _last(self, reason: FinishReason) -> NDArray[np.float32] | None:
        """End, and return what has not been returned yet."""
        piece = None
        if self._parts is not None and self.n_frames and reason is not FinishReason.CANCELLED:
            side, generator, _ = self._parts
            with side.conditioned(self._request.conditioning):
                piece = self._samples(generator)
        self._end(reason)
        return piece if piece is not None and len(piece) else None

    def _samples(self, generator: SpeechGenerator) -> NDArray[np.float32]:
        piece = generator.samples(self._n_samples)
        self._n_samples += len(piece)
        return piece

    def _end(self, reason: FinishReason | None) -> None:
        if self.ended:
            return
        # From here on the next one may begin.
        self.finish_reason, self.ended = reason, True
        parts, self._parts = self._parts, None
        self._turn.forget(self)
        if parts is not None:
            parts[2].close()


__all__ = ["Speaker", "SpeechJob", "SpeechRequest"]
