"""A projector: it turns images and sound into embeddings that a model reads in place of tokens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import callbacks, guard, log, media_ffi, media_lib, shutdown
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.encoding_turns import EncodingTurns
from llama_cffi._native.gate import SharedGate
from llama_cffi._native.handle import Handle
from llama_cffi._util.fork import fork_safe
from llama_cffi._util.shown import shown
from llama_cffi.core.context_options import FlashAttention
from llama_cffi.core.file_load import load_file
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.bitmap import parts_of
from llama_cffi.core.media.chunk import MediaChunk
from llama_cffi.core.media.image import Image
from llama_cffi.core.media.owned import owned
from llama_cffi.core.media.place import FIRST_PLACE, Place
from llama_cffi.core.media.places import Places, chunks_of, is_text
from llama_cffi.core.media.projector_file import check_projector_file, projector_id
from llama_cffi.core.media.projector_memory import check_layout
from llama_cffi.core.media.projector_params import native_params
from llama_cffi.core.media.speech_turn import SpeechTurn
from llama_cffi.core.media.video import Video
from llama_cffi.core.model import Model, ProgressCallback
from llama_cffi.core.native_object import NativeObject
from llama_cffi.errors import (
    AbortedError,
    BusyError,
    MediaError,
    NativeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOO_LARGE, _OF_ANOTHER_SHAPE = 2, 3
_SPEECH = {1: "qwen3tts", 2: "pockettts"}
"""The values of ``mtmd_gen_audio_type``, without that for none."""


class Projector(NativeObject):
    """The vision or audio encoder of a model, loaded from its mmproj file.

    ``n_threads`` are the threads of an encoding, by default as many as a Context's. ``use_gpu`` computes on a GPU where
    there is one. ``image_min_tokens`` and ``image_max_tokens`` limit the tokens of an image where the encoder takes
    images of any size, by default as the file says. ``batch_max_tokens`` limits what :meth:`encode_many` computes at
    once. ``warmup`` encodes an empty image, so that the first one takes no longer than the next. ``progress`` is as
    for a Model.

    It belongs to ``model``, which closes it. Any number of threads may :meth:`tokenize`; encodings wait for each other.
    Raises :class:`UnsupportedError` where there is no libmtmd that can be used, :class:`ModelNotFoundError`, and
    :class:`ModelFileError` for a file that is not a projector, or not one of this model. Wraps ``mtmd_init_from_file``.
    """

    _instead_of_pickling = "open its file in each process"
    _instead_of_copying = "any number of threads may use one"

    def __init__(
        self,
        model: Model,
        path: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        use_gpu: bool = True,
        image_min_tokens: int | None = None,
        image_max_tokens: int | None = None,
        batch_max_tokens: int | None = None,
        flash_attn: FlashAttention = "auto",
        warmup: bool = True,
        progress: ProgressCallback | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {shown(model)}")
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be a function or None, got {shown(progress)}")
        self._abort = flag = AbortFlag()
        self.turns = EncodingTurns(flag)
        """Those of the contexts that it computes beside, of which it needs the CPUs."""
        params = native_params(
            self.turns,
            n_threads=n_threads,
            use_gpu=use_gpu,
            image_min_tokens=image_min_tokens,
            image_max_tokens=image_max_tokens,
            batch_max_tokens=batch_max_tokens,
            flash_attn=flash_attn,
            warmup=warmup,
        )
        self.model = model
        self.path = Path(path)
        self.n_threads: int = params.n_threads
        file = check_projector_file(self.path)
        self.fingerprint: bytes = projector_id(file, params.image_min_tokens, params.image_max_tokens)
        """16 bytes: a hash of metadata and list of tensors, of some pieces of the weights, and of the limits for image
        tokens. Equal for projectors that compute the same."""
        check_layout(self.path, self.fingerprint, params)
        self._lock = fork_safe(threading.Lock())
        self._encoder: int | None = None
        self.speech_turn = SpeechTurn()
        """Which speech is computed."""
        self.gate = gate = SharedGate(self._abort.set)
        """Keeps :meth:`close` waiting while native code uses the projector."""
        with model.gate, gate:
            free = partial(_free, self.turns)
            self._handle = handle = Handle("Projector", free, (model.handle,), gate)
            try:
                ptr = self._load(params, progress)
                self._read(ptr)
                handle.open(ptr)
            except BaseException:
                handle.release()
                raise

    def _load(self, params: Any, progress: ProgressCallback | None) -> Any:
        def load(reporter: callbacks.Progress) -> Any:
            params.progress_callback = media_ffi.cast("mtmd_progress_callback", reporter.callback)
            params.progress_callback_user_data = media_ffi.cast("void *", reporter.data)
            return guard.media_init(os.fsencode(self.path), self.model.ptr, params, self._handle.cell)

        return load_file(self.path, progress, load, what="the projector ")[0]

    def _read(self, ptr: Any) -> None:
        info = media_lib.mtmd_gen_audio_get_info(ptr)
        self.speech: str | None = _SPEECH.get(int(info.type))
        """The kind of its generator, with which the model speaks, as libmtmd names it ("qwen3tts"); None without one.
        See :class:`SpeechGenerator`."""
        self.speech_rate: int | None = int(info.sample_rate) if self.speech is not None else None
        """Samples per second of the speech."""
        hears = bool(media_lib.mtmd_support_audio(ptr))
        self.voices: bool = hears and self.speech is not None
        """Whether the speech can imitate a voice, of which a sound is given."""
        self.vision: bool = bool(media_lib.mtmd_support_vision(ptr))
        """Whether it takes images."""
        # A model that only speaks has no template: its encoder of sound is for voices, not for prompts.
        self.audio: bool = hears and not (self.speech is not None and self.model.chat_template() is None)
        """Whether it takes sound in a prompt."""
        self.video: bool = bool(media_lib.mtmd_helper_support_video(ptr))
        """Whether libmtmd would decode videos for it, with ffmpeg programs."""
        rate = int(media_lib.mtmd_get_audio_sample_rate(ptr))
        self.sample_rate: int | None = rate if rate > 0 else None
        """Samples per second that sound is resampled to; None for a projector that takes none."""
        self.uses_mrope: bool = bool(media_lib.mtmd_decode_use_mrope(ptr))
        """Whether positions have several dimensions (M-RoPE); see :meth:`MediaChunk.positions`."""
        self.n_embd: int = self.model.n_embd_inp
        """Numbers in a row of embeddings: the input width of the model."""

    def close(self) -> None:
        """Stop an encoding that runs on another thread, then free the projector. May be called repeatedly."""
        self._handle.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Projector: closed>"
        kinds = [name for name in ("vision", "audio", "speech") if getattr(self, name)]
        return f"<Projector {self.path.name!r}: {', '.join(kinds)}>"

    # -- tokens

    @cached_property
    def places(self) -> Places:
        """Which places in a prompt differ for an image; raises the errors of :class:`Places`."""
        with self.gate:
            return Places(self._handle.ptr, self.model.vocab)

    def place(self, n_images: int, n_cells: int) -> Place:
        """Return what a place behind ``n_images`` images, and ``n_cells`` cells in all, changes for an image."""
        return self.places.at(n_images, n_cells) if self.vision else FIRST_PLACE

    def tokenize(self, media: Image | Audio | Video, place: Place = FIRST_PLACE) -> list[list[int] | MediaChunk]:
        """Return what stands for a medium in a prompt: tokens of text, and pieces of the medium between them.

        The tokens are those that the model wants around it and between pieces, such as the start of an image, as
        libmtmd adds them. No two lists of tokens follow each other, and none is empty. Any thread may call it.

        ``place`` is one that :meth:`place` returns; without one the medium is the first thing of its prompt. HunyuanVL
        numbers the images of a prompt, and DeepSeek-V4 aligns them: libmtmd makes the same of a medium alone as of one
        in a whole prompt.

        Raises :class:`MediaError` with libmtmd's reason for what cannot be decoded or used, and
        :class:`UnsupportedError` for a kind that this projector does not take. Wraps ``mtmd_tokenize_from_parts``.
        """
        if not isinstance(media, (Image, Audio, Video)):
            raise TypeError(f"media must be an Image, Audio or Video, got {shown(media)}")
        if not (self.audio if isinstance(media, Audio) else self.vision):
            what = "sound" if isinstance(media, Audio) else "images"
            raise UnsupportedError(f"the projector {self.path.name} takes no {what}")
        with self.gate:
            ptr = self._handle.ptr
            try:
                with parts_of(ptr, media) as parts:
                    return self._pieces(ptr, media, parts, place)
            except NativeError as error:
                raise MediaError(f"{media!r} cannot be used: {error.message}", log=error.log) from error
            finally:
                log.pump()

    def _pieces(
        self, ptr: Any, media: Image | Audio | Video, parts: list[Any], place: Place
    ) -> list[list[int] | MediaChunk]:
        with ExitStack() as stack:
            chunks = stack.enter_context(chunks_of(ptr, parts, repr(media)))
            if place.n_images or place.alignment > 1:
                # What stands before is not told apart from the text of the medium, but its pieces come last.
                before = stack.enter_context(self.places.parts_before(ptr, place))
                placed = [
                    one for one in stack.enter_context(chunks_of(ptr, before + parts, repr(media))) if not is_text(one)
                ]
                n = sum(not is_text(one) for one in chunks)
                left = iter(placed[-n:])
                chunks = [one if is_text(one) else next(left) for one in chunks]
            return [piece for i, one in enumerate(chunks) if (piece := self._piece(ptr, media, i, one, place))]

    def _piece(
        self, ptr: Any, media: Image | Audio | Video, index: int, chunk: Any, place: Place
    ) -> list[int] | MediaChunk:
        if is_text(chunk):
            n = media_ffi.new("size_t *")
            tokens = media_lib.mtmd_input_chunk_get_tokens_text(chunk, n)
            return media_ffi.unpack(tokens, n[0]) if n[0] else []
        return MediaChunk(
            chunk,
            ptr,
            medium=media.digest + bytes([place.n_cells] * (place.alignment > 1)),
            index=index,
            projector_id=self.fingerprint,
            uses_mrope=self.uses_mrope,
        )

    # -- embeddings

    def encode(self, chunk: MediaChunk, *, deadline: float | None = None) -> NDArray[np.float32]:
        """Compute the embeddings of a piece: float32 of shape ``(n_tokens, n_embd)``.

        Waits while another thread encodes. ``deadline`` is a :func:`time.monotonic` time after which it stops.
        Raises :class:`AbortedError` after that and after :meth:`abort`, :class:`MediaError` with libmtmd's reason when
        it fails, :class:`ClosedError` for a closed piece, ``ValueError`` for one of another projector, and
        :class:`BusyError` inside of an encoding of this thread, and in a signal handler in the middle of a decode that
        it takes turns with. A signal handler that raises, as Ctrl-C does, stops it.
        Without the compiled helpers nothing stops it in the middle. Wraps ``mtmd_encode_chunk``.
        """
        self._check(chunk)
        with self.computing(deadline) as ptr:
            self._finish("mtmd_encode_chunk", self.turns.compute("mtmd_encode_chunk", ptr, chunk.ptr))
            return self._rows(media_lib.mtmd_get_output_embd(ptr), chunk)

    def encode_many(self, chunks: Sequence[MediaChunk], *, deadline: float | None = None) -> list[NDArray[np.float32]]:
        """Compute the embeddings of several pieces, those of equal sizes together where the encoder can.

        At most ``batch_max_tokens`` are computed at once, and at least one piece. Raises as :meth:`encode`; nothing is
        returned of the pieces before a failure. Wraps ``mtmd_batch_encode``.
        """
        for chunk in chunks:
            self._check(chunk)
        found: list[NDArray[np.float32]] = []
        with self.computing(deadline) as ptr:
            while len(found) < len(chunks):
                with owned("batch", "mtmd_batch_free", "mtmd_batch_init", ptr) as batch:
                    found += self._encode_batch(batch, chunks[len(found) :])
        return found

    def _encode_batch(self, batch: Any, chunks: Sequence[MediaChunk]) -> list[NDArray[np.float32]]:
        """The embeddings of as many first pieces as can be computed together."""
        taken: list[MediaChunk] = []
        for chunk in chunks:
            # The batch finds a piece by its address.
            if any(one is chunk for one in taken):
                break
            code = guard.call_int("mtmd_batch_add_chunk", batch, chunk.ptr)
            if code in (_TOO_LARGE, _OF_ANOTHER_SHAPE) and taken:
                break
            self._finish("mtmd_batch_add_chunk", code)
            taken.append(chunk)
        self._abort.arm()
        self._finish("mtmd_batch_encode", self.turns.compute("mtmd_batch_encode", batch))
        return [self._rows(guard.call_ptr("mtmd_batch_get_output_embd", batch, one.ptr), one) for one in taken]

    def abort(self) -> None:
        """Stop the running encoding, or the next one when none runs. Any thread may call it."""
        self._abort.set()

    def withdraw_abort(self) -> None:
        """Withdraw an :meth:`abort` that has not stopped an encoding, so that it does not stop the next one."""
        self._abort.clear()

    def _check(self, chunk: MediaChunk) -> None:
        if not isinstance(chunk, MediaChunk):
            raise TypeError(f"chunk must be a MediaChunk, got {shown(chunk)}")
        if chunk.projector_id != self.fingerprint:
            raise ValueError("this MediaChunk was made by another projector, or with other limits for image tokens")

    @contextmanager
    def computing(self, deadline: float | None) -> Iterator[Any]:
        """Hold the projector for an encoding, or a step of a speech, on this thread; yields its pointer.

        Waits while another thread holds it. Raises the errors of :meth:`encode`.
        """
        # Only while it is locked: a signal handler may have raised before the last encoder was forgotten.
        if self._lock.locked() and self._encoder == threading.get_ident():
            raise BusyError("this thread is already inside an encoding of this Projector")
        with self.gate, self._lock:
            ptr = self._handle.ptr
            self._encoder = threading.get_ident()
            try:
                flag = self._abort
                flag.deadline = deadline
                if flag.is_set or flag.expired:
                    self._raise_abort()
                flag.arm()
                yield ptr
            finally:
                self._encoder = None
                log.pump()

    def check_stopped(self) -> None:
        """Raise what a signal handler has raised during a computation, and :class:`AbortedError` after :meth:`abort` or
        the deadline."""
        flag = self._abort
        exception = flag.take_exception()
        if exception is not None:
            raise exception
        if shutdown.begun() or flag.is_set or flag.expired:
            self._raise_abort()

    def _finish(self, name: str, code: int) -> None:
        """Raise unless a native call has done what it was to do."""
        self.check_stopped()
        if code:
            raise MediaError(f"encoding failed: {name} returned {code}", log=log.lines_since(log.call_mark()))

    def _raise_abort(self) -> None:
        if shutdown.begun():
            shutdown.refuse()
        expired = self._abort.expired
        self._abort.clear()
        raise AbortedError("the deadline has passed" if expired else "the encoding was aborted")

    def _rows(self, pointer: Any, chunk: MediaChunk) -> NDArray[np.float32]:
        if pointer == media_ffi.NULL:
            raise MediaError("encoding failed: libmtmd has no embeddings", log=log.lines_since(log.call_mark()))
        n = chunk.n_tokens * self.n_embd
        rows: NDArray[np.float32] = np.frombuffer(media_ffi.buffer(pointer, 4 * n), dtype=np.float32).copy()
        return rows.reshape(chunk.n_tokens, self.n_embd)


def _free(keep: EncodingTurns, cell: Any) -> None:
    # Its first argument lives as long as the native object, which has the address of them and of their flag.
    guard.free("mtmd_free", cell)


__all__ = ["Projector"]
