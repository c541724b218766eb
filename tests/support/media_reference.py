"""What libmtmd itself makes of a file: its helper functions, without the package's objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_cffi import Context, Model
from llama_cffi._native import ffi, media_ffi, media_lib


@dataclass
class Evaluated:
    """The pieces of a prompt in order, and what each was decoded with."""

    tokens: list[list[int]] = field(default_factory=list)
    """Of the pieces that are text."""
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    """Of the pieces that are media: shape ``(n_tokens, n_embd)``."""
    positions: list[NDArray[np.int32]] = field(default_factory=list)
    """Of these: shape ``(n_pos_per_embd, n_tokens)``."""
    shapes: list[tuple[str, int, int]] = field(default_factory=list)
    """Kind, tokens and positions of every piece."""
    end: int = 0
    """The position behind the last one."""


class Reference:
    """A ``mtmd_context`` with llama.cpp's defaults; :func:`open_reference` makes one."""

    def __init__(self, ptr: Any, n_embd: int) -> None:
        self.ptr, self._n_embd = ptr, n_embd
        self._encoded: dict[tuple[bytes, int], tuple[Any, NDArray[np.float32]]] = {}

    def decode_medium(self, context: Context, data: bytes, index: int, position: int) -> tuple[int, int]:
        """Decode one piece of a file in sequence 0, without the text around it; return how many tokens it has, and the
        position behind it."""
        lib = media_lib
        if (data, index) not in self._encoded:
            self._encoded[data, index] = self._encode(data, index)
        chunk, rows = self._encoded[data, index]
        target = media_ffi.cast("struct llama_context *", int(ffi.cast("intptr_t", context.ptr)))
        end = media_ffi.new("llama_pos *", position)
        code = lib.mtmd_helper_decode_image_chunk(
            self.ptr, target, chunk, media_ffi.from_buffer("float[]", rows), position, 0, context.n_batch, end,
            media_ffi.NULL, media_ffi.NULL,
        )  # fmt: skip
        assert code == 0
        return len(rows), end[0]

    def _encode(self, data: bytes, index: int) -> tuple[Any, NDArray[np.float32]]:
        """A piece of a file, and its embeddings."""
        lib = media_lib
        with ExitStack() as stack:
            bitmap = stack.enter_context(self._bitmap(data, lib.mtmd_helper_init_opt_default()))
            chunks = lib.mtmd_input_chunks_init()
            stack.callback(lib.mtmd_input_chunks_free, chunks)
            part = media_ffi.new("struct mtmd_input_part *", {"bitmap": bitmap})
            parts = media_ffi.new("struct mtmd_input_part *[]", [part])
            assert lib.mtmd_tokenize_from_parts(self.ptr, chunks, parts, 1, False) == 0
            every = [lib.mtmd_input_chunks_get(chunks, i) for i in range(lib.mtmd_input_chunks_size(chunks))]
            media = [one for one in every if lib.mtmd_input_chunk_get_type(one) != lib.MTMD_INPUT_CHUNK_TYPE_TEXT]
            chunk = media_ffi.gc(lib.mtmd_input_chunk_copy(media[index]), lib.mtmd_input_chunk_free)
        assert lib.mtmd_encode_chunk(self.ptr, chunk) == 0
        n = lib.mtmd_input_chunk_get_n_tokens(chunk)
        found = media_ffi.buffer(lib.mtmd_get_output_embd(self.ptr), 4 * n * self._n_embd)
        return chunk, np.frombuffer(found, dtype=np.float32).reshape(n, self._n_embd).copy()

    def evaluate(
        self, context: Context, before: str, data: bytes, after: str, *, ffmpeg: Path | None = None
    ) -> Evaluated:
        """Decode a text, a medium and a text as :meth:`evaluate_all` does."""
        return self.evaluate_all(context, [before, data, after], ffmpeg=ffmpeg)

    def evaluate_all(self, context: Context, parts: Sequence[str | bytes], *, ffmpeg: Path | None = None) -> Evaluated:
        """Decode texts and media (files) as one prompt in sequence 0, with the logits of the last token.

        ``ffmpeg`` is the folder of the programs that decode a video.
        """
        lib = media_lib
        folder = media_ffi.new("char[]", os.fsencode(ffmpeg or "/dev/null"))
        options = lib.mtmd_helper_init_opt_default()
        options.video_params.ffmpeg_bin_dir = folder
        marker = media_ffi.string(lib.mtmd_default_marker())
        with ExitStack() as stack:
            bitmaps = [stack.enter_context(self._bitmap(one, options)) for one in parts if isinstance(one, bytes)]
            chunks = lib.mtmd_input_chunks_init()
            stack.callback(lib.mtmd_input_chunks_free, chunks)
            text = b"".join(one.encode() if isinstance(one, str) else marker for one in parts)
            keep = media_ffi.new("char[]", text)
            native = media_ffi.new("struct mtmd_input_text *", [keep, len(text), True, True])
            every = media_ffi.new("mtmd_bitmap *[]", bitmaps)
            assert lib.mtmd_tokenize(self.ptr, chunks, native, every, len(bitmaps)) == 0
            return self._decode(context, chunks)

    @contextmanager
    def _bitmap(self, data: bytes, options: Any) -> Iterator[Any]:
        wrapper = media_lib.mtmd_helper_bitmap_init_from_buf(
            self.ptr, media_ffi.from_buffer(data), len(data), False, options
        )
        assert wrapper.bitmap
        try:
            yield wrapper.bitmap
        finally:
            media_lib.mtmd_bitmap_free(wrapper.bitmap)
            if wrapper.video_ctx:
                media_lib.mtmd_helper_video_free(wrapper.video_ctx)

    def _decode(self, context: Context, chunks: Any) -> Evaluated:
        lib = media_lib
        found = Evaluated()
        target = media_ffi.cast("struct llama_context *", int(ffi.cast("intptr_t", context.ptr)))
        place, count = media_ffi.new("llama_pos *"), media_ffi.new("size_t *")

        @media_ffi.callback("mtmd_helper_post_decode_callback")  # type: ignore[untyped-decorator]
        def decoded(batch: Any, _: Any) -> int:
            n, sections = batch.n_tokens, batch.n_pos
            rows = np.frombuffer(media_ffi.buffer(batch.embd, 4 * n * batch.n_embd), dtype=np.float32)
            found.embeddings.append(rows.reshape(n, batch.n_embd).copy())
            places = np.frombuffer(media_ffi.buffer(batch.pos, 4 * n * sections), dtype=np.int32)
            found.positions.append(places.reshape(sections, n).copy())
            return 0

        n = lib.mtmd_input_chunks_size(chunks)
        for i in range(n):
            chunk = lib.mtmd_input_chunks_get(chunks, i)
            kind = ("text", "image", "audio")[lib.mtmd_input_chunk_get_type(chunk)]
            size = lib.mtmd_input_chunk_get_n_tokens(chunk), lib.mtmd_input_chunk_get_n_pos(chunk)
            found.shapes.append((kind, *size))
            place[0] = found.end
            if kind == "text":
                tokens = lib.mtmd_input_chunk_get_tokens_text(chunk, count)
                found.tokens.append(media_ffi.unpack(tokens, count[0]))
                code = lib.mtmd_helper_eval_chunk_single(
                    self.ptr, target, chunk, found.end, 0, context.n_batch, i == n - 1, place
                )
            else:
                assert lib.mtmd_encode_chunk(self.ptr, chunk) == 0
                code = lib.mtmd_helper_decode_image_chunk(
                    self.ptr, target, chunk, lib.mtmd_get_output_embd(self.ptr), found.end, 0, context.n_batch, place,
                    decoded, media_ffi.NULL,
                )  # fmt: skip
            assert code == 0
            found.end = place[0]
        return found


@contextmanager
def open_reference(model: Model, path: Path, *, exact: bool = False) -> Iterator[Reference]:
    """A projector without the package's objects; an ``exact`` one adds without flash attention."""
    params = media_lib.mtmd_context_params_default()
    if exact:
        params.flash_attn_type = 0
    params.warmup, params.print_timings, params.n_threads = False, False, 1
    native = media_ffi.cast("struct llama_model *", int(ffi.cast("intptr_t", model.ptr)))
    ptr = media_lib.mtmd_init_from_file(os.fsencode(path), native, params)
    assert ptr
    try:
        yield Reference(ptr, model.n_embd_inp)
    finally:
        media_lib.mtmd_free(ptr)
