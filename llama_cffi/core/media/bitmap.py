"""A medium as libmtmd takes it: decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from llama_cffi._native import ffi, guard, log, media_ffi, media_lib
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.image import Image
from llama_cffi.core.media.owned import owned
from llama_cffi.core.media.video import Video
from llama_cffi.errors import MediaError

_NO_PROGRAM = b"/dev/null"
"""Where no ffmpeg can be: what is not decoded at once must not be given to it."""


@contextmanager
def bitmap_of(context: Any, media: Image | Audio) -> Iterator[Any]:
    """Decode a medium; yields its ``mtmd_bitmap``, which is freed at the end.

    Raises :class:`MediaError` with libmtmd's reason for what it cannot decode. Wraps ``mtmd_bitmap_init`` and
    ``mtmd_helper_bitmap_init_from_buf``.
    """
    if isinstance(media, Image) and media.format == "rgb":
        pixels = ffi.from_buffer(media.data)
        with owned("bitmap", "mtmd_bitmap_free", "mtmd_bitmap_init", media.width, media.height, pixels) as bitmap:
            yield bitmap
        return
    out = media_ffi.new("struct mtmd_helper_bitmap_wrapper *")
    try:
        _decode(context, media, out)
        yield out.bitmap
    finally:
        if out.bitmap != media_ffi.NULL:
            media_lib.mtmd_bitmap_free(out.bitmap)
        if out.video_ctx != media_ffi.NULL:
            media_lib.mtmd_helper_video_free(out.video_ctx)


@contextmanager
def parts_of(context: Any, media: Image | Audio | Video) -> Iterator[list[Any]]:
    """Decode a medium; yields pointers to ``mtmd_input_part``: a bitmap, and for a Video texts and bitmaps."""
    keep: list[Any] = []
    found: list[Any] = []
    with ExitStack() as stack:
        for part in media.parts() if isinstance(media, Video) else (media,):
            if isinstance(part, str):
                data = part.encode()
                characters = media_ffi.new("char[]", data)
                text = media_ffi.new("struct mtmd_input_text *", (characters, len(data), False, True))
                keep += [characters, text]
                found.append(media_ffi.new("struct mtmd_input_part *", {"text": text}))
            else:
                bitmap = stack.enter_context(bitmap_of(context, part))
                if isinstance(media, Video):
                    media_lib.mtmd_bitmap_set_mergeable(bitmap, True)
                found.append(media_ffi.new("struct mtmd_input_part *", {"bitmap": bitmap}))
        yield found
    del keep


def _decode(context: Any, media: Image | Audio, out: Any) -> None:
    options = media_lib.mtmd_helper_init_opt_default()
    folder = media_ffi.new("char[]", _NO_PROGRAM)
    is_webp = isinstance(media, Image) and media.format == "webp"
    if not is_webp:
        options.video_params.ffmpeg_bin_dir = folder
    data = media.data if isinstance(media, Image) else media.file().body
    mark = log.mark()
    guard.media_decode(context, data, options, out)
    if out.bitmap == media_ffi.NULL:
        hint = "; WebP needs the programs ffmpeg and ffprobe" if is_webp else ""
        raise MediaError(f"{media!r} cannot be decoded{hint}", log=log.lines_since(mark))
    if isinstance(media, Image):
        size = media_lib.mtmd_bitmap_get_nx(out.bitmap), media_lib.mtmd_bitmap_get_ny(out.bitmap)
        if out.video_ctx != media_ffi.NULL or size != (media.width, media.height):
            raise MediaError(f"{media!r} was decoded as {size[0]} by {size[1]} pixels: the file is damaged")
    # libmtmd asserts that there are more samples than one.
    elif media_lib.mtmd_bitmap_get_nx(out.bitmap) < 2:
        raise MediaError(f"{media!r} is too short: there is no sound in it")


__all__ = ["bitmap_of", "parts_of"]
