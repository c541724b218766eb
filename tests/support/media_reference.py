"""What libmtmd itself makes of a file: its helper functions, without the package's objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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

    def __init__(self, ptr: Any) -> None:
        self.ptr = ptr

    def evaluate(
        self, context: Context, before: str, data: bytes, after: str, *, ffmpeg: Path | None = None
    ) -> Evaluated:
        """Decode a text, a medium and a text in sequence 0, with the logits of the last token.

        ``ffmpeg`` is the folder of the programs that decode a video.
        """
        lib = media_lib
        options = lib.mtmd_helper_init_opt_default()
        folder = media_ffi.new("char[]", os.fsencode(ffmpeg or "/dev/null"))
        options.video_params.ffmpeg_bin_dir = folder
        wrapper = lib.mtmd_helper_bitmap_init_from_buf(self.ptr, media_ffi.from_buffer(data), len(data), False, options)
        assert wrapper.bitmap
        chunks = lib.mtmd_input_chunks_init()
        try:
            marker = media_ffi.string(lib.mtmd_default_marker())
            text = before.encode() + marker + after.encode()
            keep = media_ffi.new("char[]", text)
            native = media_ffi.new("struct mtmd_input_text *", [keep, len(text), True, True])
            bitmaps = media_ffi.new("mtmd_bitmap *[]", [wrapper.bitmap])
            assert lib.mtmd_tokenize(self.ptr, chunks, native, bitmaps, 1) == 0
            return self._decode(context, chunks)
        finally:
            lib.mtmd_input_chunks_free(chunks)
            lib.mtmd_bitmap_free(wrapper.bitmap)
            if wrapper.video_ctx:
                lib.mtmd_helper_video_free(wrapper.video_ctx)

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
def open_reference(model: Model, path: Path) -> Iterator[Reference]:
    """A projector without the package's objects."""
    params = media_lib.mtmd_context_params_default()
    params.warmup, params.print_timings, params.n_threads = False, False, 1
    native = media_ffi.cast("struct llama_model *", int(ffi.cast("intptr_t", model.ptr)))
    ptr = media_lib.mtmd_init_from_file(os.fsencode(path), native, params)
    assert ptr
    try:
        yield Reference(ptr)
    finally:
        media_lib.mtmd_free(ptr)
