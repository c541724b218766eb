"""Speech: what a projector makes of the hidden states of a model that reads a text aloud."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi, guard, lib, log, media_ffi, media_lib
from llama_cffi._native.handle import Handle
from llama_cffi._util.scalars import check_int
from llama_cffi._util.seed import check_seed
from llama_cffi.core.context import Context
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.bitmap import bitmap_of
from llama_cffi.core.media.projector import Projector
from llama_cffi.core.native_object import NativeObject
from llama_cffi.errors import (
    BatchError,
    ContextError,
    ContextOverflowError,
    MediaError,
    NativeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW = {"qwen3tts": 72, "pockettts": 8}
"""Frames that libmtmd decodes together. Asked for samples before, it decodes fewer: those of Qwen3-TTS it fills up with
frames that its state remembers, and those of Pocket-TTS differ in the last bits."""
_WRAPPING = 256
"""Bytes that libmtmd puts around a text, at most."""


class SpeechGenerator(NativeObject):
    """Speech of a model, a frame at a time: :meth:`start`, :meth:`read` until it is done, then :meth:`step` again and
    again.

    ``context`` computes nothing else: it needs ``embeddings=True``, ``pooling="none"`` and ``own_threads=True``. It
    belongs to the context and the projector, which must be of one model. The caller holds
    :attr:`Projector.speech_turn` from :meth:`start` to the last step. One thread at a time may use it; a step holds the
    context and the projector.

    Raises :class:`UnsupportedError` for a projector that does not speak. Wraps ``mtmd_helper_gen_audio_init``.
    """

    _instead_of_pickling = "open model and projector in each process"
    _instead_of_copying = "make another one, with a Context of its own"

    def __init__(self, context: Context, projector: Projector) -> None:
        if projector.speech is None or projector.speech_rate is None:
            raise UnsupportedError(f"the projector {projector.path.name} generates no speech")
        if context.model is not projector.model:
            raise ValueError("context and projector must be of one Model")
        if not context.embeddings_enabled or context.pooling != "none":
            raise ContextError('speech needs a Context with embeddings=True and pooling="none"')
        if context.threads.shared:
            # libmtmd decodes with it, also when it was stopped while it waited for its turn.
            raise ContextError("speech needs a Context with threads of its own: Context(..., own_threads=True)")
        model = context.model
        if not model.n_embd == model.n_embd_inp == model.n_embd_out:
            raise UnsupportedError(f"{model.path.name} has other widths at its ends than libmtmd expects of a speaker")
        self.context, self.projector = context, projector
        projector.turns.add(context.turn)
        self.sample_rate: int = projector.speech_rate
        """Samples per second."""
        self._window = _WINDOW.get(projector.speech)
        self._pending = 0
        self._begun = False
        self._seed = 0
        self._state: Any = None
        self._n_prompt: int | None = None
        self._computes = False
        # Reentrant: a signal handler may abort in the middle.
        self._watch = threading.RLock()
        access = context.access
        self._handle = handle = Handle(
            "SpeechGenerator",
            partial(guard.free, "mtmd_helper_gen_audio_free"),
            (context.handle, projector.handle),
            access.gate,
        )
        with access.lock():
            try:
                handle.open(guard.call_ptr("mtmd_helper_gen_audio_init", context.ptr, projector.ptr, cell=handle.cell))
            except BaseException:
                handle.release()
                raise

    def start(
        self,
        text: str,
        *,
        voice: Audio | None = None,
        language: str | None = None,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        deadline: float | None = None,
    ) -> None:
        """Begin to speak a text, in place of what was spoken before.

        ``voice`` is the sound of the voice to speak with. ``top_k`` and ``top_p`` choose among the details of a sound
        where the generator chooses, 0 for libmtmd's values. ``deadline`` is as for :meth:`Projector.encode`.

        The text is tokenized by libmtmd, control tokens in it included. Raises :class:`MediaError` with libmtmd's
        reason for a voice that cannot be used, a language that the model does not know and, with some kinds, an empty
        text. Wraps ``mtmd_helper_gen_audio_set_input``.
        """
        data = text.encode()
        native = media_ffi.new("struct mtmd_helper_gen_audio_inp *")
        characters = media_ffi.new("char[]", data)
        language_name = media_ffi.new("char[]", (language or "").encode())
        native.prompt, native.prompt_len, native.lang = characters, len(data), language_name
        native.top_k, native.top_p, native.seed = check_int("top_k", top_k), top_p, check_seed(seed)
        native.out_type = media_lib.MTMD_HELPER_GEN_AUDIO_OUTTYPE_PCM
        stack = self.context.model.vocab.stack_for(text + " " * _WRAPPING)
        self._begun, self._state, self._n_prompt, self._seed = False, None, None, native.seed
        self._pending = 0
        with self.context.lock(), ExitStack() as keep:
            self.context.memory.clear(data=False)
            if voice is not None:
                with self.projector.gate:
                    native.speaker_ref = keep.enter_context(bitmap_of(self.projector.ptr, voice))
            with self._computing(deadline) as ptr:
                self._start_over()
                name = "mtmd_helper_gen_audio_set_input"
                code = self.projector.turns.compute(name, ptr, native, stack=stack)
                self._finish("the text or the voice cannot be used", code)
        self._begun = True

    def _start_over(self) -> None:
        """Have libmtmd begin its random numbers anew, which it does where a seed is another one than that before."""
        turn, projector = self.projector.speech_turn, self.projector
        if turn.seed not in (self._seed, None):
            return
        native, out = media_ffi.new("struct mtmd_gen_inp *"), media_ffi.new("struct mtmd_gen_out *")
        native[0] = media_lib.mtmd_gen_inp_default(projector.ptr)
        state = np.zeros(self.context.model.n_embd, dtype=np.float32)
        native.embd = media_ffi.cast("float *", media_ffi.from_buffer(state))
        native.seed, turn.seed = self._seed ^ 1, None
        code = projector.turns.compute("mtmd_gen_audio_process", projector.ptr, native, out)
        self._finish("the generator cannot be reset", code)
        turn.seed = native.seed

    def read(self, n_tokens: int, *, deadline: float | None = None) -> bool:
        """Compute at most ``n_tokens`` of the prompt; returns whether there are more.

        Raises :class:`ContextOverflowError`, with the first ones, for a prompt that leaves no room for any sound, and
        the errors of :meth:`step`. Wraps ``mtmd_helper_gen_audio_step_prompt``.
        """
        n_tokens = check_int("n_tokens", n_tokens, 1, self.context.n_batch)
        if not self._begun:
            raise BatchError("there is no text to read: call start() first")
        n_left = self._step_prompt(n_tokens, deadline)
        if self._n_prompt is None:
            self._n_prompt = self.n_past + n_left
            if self._n_prompt >= self.context.n_ctx:
                self._begun = False
                raise ContextOverflowError(
                    f"text and voice take {self._n_prompt} positions, and the context has {self.context.n_ctx}: "
                    "give a shorter text or voice, or open the model with a larger n_ctx"
                )
        if not n_left and self._state is None:
            state = lib.llama_get_embeddings_ith(self.context.ptr, -1)
            if state == ffi.NULL:
                raise BatchError("the prompt has left no hidden state", log=log.lines_since(log.call_mark()))
            self._state = state
        return n_left > 0

    def _step_prompt(self, n_tokens: int, deadline: float | None) -> int:
        with self._computing(deadline) as ptr:
            n_left = self.projector.turns.compute("mtmd_helper_gen_audio_step_prompt", ptr, n_tokens)
            self._finish("the text cannot be computed", min(n_left, 0))
        return n_left

    @property
    def n_past(self) -> int:
        """Positions of the context in use."""
        last = self.context.memory.seq_pos_max(0)
        return 0 if last is None else last + 1

    def step(self, token: int, *, deadline: float | None = None) -> bool:
        """Generate a frame from the token that was chosen from the last logits; False where the speech has ended.

        Afterwards the context has the logits to choose the next token from. Raises :class:`AbortedError` after the
        deadline and :meth:`abort`, :class:`BatchError` before the prompt was read, and :class:`MediaError` with
        libmtmd's reason when it fails. Wraps ``mtmd_helper_gen_audio_step_gen``.
        """
        if self._state is None:
            raise BatchError("there is no prompt, or it was not read to its end")
        # After a failure nothing can follow.
        state, self._state = self._state, None
        before = self.n_past
        self.projector.speech_turn.seed = None
        following, ended = media_ffi.new("float **"), media_ffi.new("bool *")
        with self._computing(deadline) as ptr:
            code = self.projector.turns.compute("mtmd_helper_gen_audio_step_gen", ptr, token, state, following, ended)
            self._finish("no frame was generated", code)
        self.projector.speech_turn.seed = self._seed
        if following[0] != media_ffi.NULL and not ended[0]:
            self._state = following[0]
        # Where positions go back, a part of a long text has ended, and was decoded.
        self._pending = (self._pending + 1) % (self._window or 1) if self.n_past == before + 1 else 0
        return self._state is not None

    @property
    def settled(self) -> bool:
        """Whether all frames so far are decoded, so that :meth:`samples` changes nothing. For a kind of which that is
        not known it is never so: only the whole can be had."""
        return self._window is not None and not self._pending

    def samples(self, start: int = 0, *, deadline: float | None = None) -> NDArray[np.float32]:
        """Return a copy of the samples from an index on, float32 from -1 to 1 of shape ``(n,)``.

        Between two steps only where it is :attr:`settled`: otherwise what follows sounds different. What stops it in
        the middle leaves noise in the samples. Raises the errors of :meth:`step`.
        Wraps ``mtmd_helper_gen_audio_get_output``.
        """
        if not self._begun:
            raise BatchError("there are no samples: call start() first")
        rate, data = media_ffi.new("int32_t *"), media_ffi.new("char **")
        size, n = media_ffi.new("size_t *"), media_ffi.new("int64_t *")
        with self._computing(deadline) as ptr:
            code = self.projector.turns.compute("mtmd_helper_gen_audio_get_output", ptr, rate, data, size, n)
            self._finish("the frames cannot be decoded", code)
            if not size[0]:
                return np.empty(0, dtype=np.float32)
            whole = np.frombuffer(media_ffi.buffer(data[0], size[0]), dtype=np.float32)
            found: NDArray[np.float32] = whole[start:].copy()
        return found

    def abort(self) -> None:
        """Stop the call that computes, if one does. Any thread may call it."""
        with self._watch:
            if self._computes:
                self.context.abort()
                self.projector.abort()

    @contextmanager
    def _computing(self, deadline: float | None) -> Iterator[Any]:
        """Hold context and projector for a native call; yields the pointer of the generator."""
        try:
            with self.projector.computing(deadline), self.context.access.computing(deadline):
                self._computes = True
                try:
                    yield self._handle.ptr
                finally:
                    with self._watch:
                        self._computes = False
                        # An abort that came too late must not stop what others compute next.
                        self.context.withdraw_abort()
                        self.projector.withdraw_abort()
        except NativeError as error:
            raise MediaError(f"speech failed: {error.message}", log=error.log) from error

    def _finish(self, what: str, code: int) -> None:
        """Raise unless a native call has done what it was to do."""
        self.context.access.check_stopped()
        self.projector.check_stopped()
        if code:
            lines = log.lines_since(log.call_mark())
            reason = f": {lines[-1].strip()}" if lines else ""
            raise MediaError(f"speech failed: {what}{reason}", log=lines)

    def __repr__(self) -> str:
        return "<SpeechGenerator: closed>" if self.closed else f"<SpeechGenerator {self.projector.speech}>"


__all__ = ["SpeechGenerator"]
