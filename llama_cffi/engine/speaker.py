"""Texts that a model reads aloud, one after another, on a context beside the engine's."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
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
from llama_cffi.engine.speech_job import SpeechJob
from llama_cffi.errors import AbortedError, ClosedError, UnsupportedError
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
        self._lock = fork_safe(threading.Lock())
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
                self._side = SideContext(like.model, options, own_threads=True)
            if self._generator is None:
                self._generator = SpeechGenerator(self._side.context, self.projector)
            return self._side, self._generator

    def start(self, request: SpeechRequest) -> LocalSpeech:
        """Return a text that is spoken as it is read."""
        return LocalSpeech(self, request)

    def close(self) -> None:
        """Stop what is computed and free the context. Idempotent."""
        with self._lock:
            self._closed = True
        if self._side is not None:
            self._side.close()


class LocalSpeech(SpeechJob):
    """A text that the thread computes which reads it."""

    def __init__(self, speaker: Speaker, request: SpeechRequest) -> None:
        super().__init__(speaker.projector.speech_turn, speaker.sample_rate, request.max_seconds)
        self._speaker, self._request = speaker, request
        self.n_steps = 0
        """Native computations so far."""
        self._n_samples = 0
        self._parts: tuple[SideContext, SpeechGenerator, SamplerChain] | None = None

    def _advance(self) -> NDArray[np.float32] | None:
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
        reason = self._take_turn()
        if reason is not None:
            return reason
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
                self.n_steps += 1
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
                self.n_steps += 1
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
        self.n_steps += 1
        return piece

    def _abort(self) -> None:
        parts = self._parts
        if parts is not None:
            parts[1].abort()

    def _release(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            parts[2].close()


def speechless(name: str, projector: str | None) -> UnsupportedError:
    """Return the error of a model that does not speak, with a projector of this name or none."""
    if projector is None:
        return UnsupportedError(f"{name} does not speak: that needs a projector which makes speech (mmproj=)")
    return UnsupportedError(f"{name} does not speak: its projector {projector} makes no speech")


__all__ = ["LocalSpeech", "Speaker", "SpeechRequest", "speechless"]
