"""Which places in a prompt differ for a projector, and what libmtmd makes of a medium in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_cffi._native import guard, log, media_ffi, media_lib
from llama_cffi.core.media.chunk import decoder_positions
from llama_cffi.core.media.owned import owned
from llama_cffi.core.media.place import Place
from llama_cffi.errors import MediaError, UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

_SIDE = 64
"""Width and height of the images that stand for those before a medium."""
_MAX_ALIGNMENT = 8
_FILLERS = ("0", " 0", "a", " a", "\n")
"""Texts of which some repetition has any number of tokens, in most vocabularies: there, each digit is a token."""


class Places:
    """Which places differ for a projector: what libmtmd makes of an image in some of them tells.

    ``context`` is its native pointer. The images have no pixels, which libmtmd allows where it only counts tokens.
    Raises :class:`UnsupportedError` for a projector with an alignment of more than 8 tokens.
    """

    def __init__(self, context: Any, vocab: Vocab) -> None:
        self._vocab = vocab
        self._texts: dict[int, tuple[Any, Any]] = {}
        # libmtmd adds BOS when the images are aligned already.
        self._n_bos = int(vocab.add_bos and vocab.bos is not None)
        with _empty_image() as image:
            sizes = [_n_tokens(context, [*self._text(n), image]) - n for n in range(2 * _MAX_ALIGNMENT)]
            periods = (n for n in range(1, _MAX_ALIGNMENT + 1) if sizes[n:] == sizes[:-n])
            self.alignment = next(periods, 0)
            if not self.alignment:
                raise UnsupportedError(f"libmtmd aligns the images of this projector to over {_MAX_ALIGNMENT} tokens")
            gap = self._text(-sizes[0] % self.alignment)
            first, both = _positions(context, [image]), _positions(context, [image, *gap, image])
        self.numbered: bool = both != first + first
        """Whether images are numbered."""

    def at(self, n_images: int, n_cells: int) -> Place:
        """Return the place behind ``n_images`` images, and ``n_cells`` cells in all."""
        return Place(n_images if self.numbered else None, n_cells % self.alignment, self.alignment)

    @contextmanager
    def parts_before(self, context: Any, place: Place) -> Iterator[list[Any]]:
        """Yield what stands in a prompt before a medium at this place, as pointers to ``mtmd_input_part``."""
        with _empty_image() as image:
            images = [image] * (place.n_images or 0)
            n = _n_tokens(context, images) if images and place.alignment > 1 else 0
            yield [*images, *self._text((place.n_cells - self._n_bos - n) % place.alignment)]

    def _text(self, n: int) -> list[Any]:
        """A text of ``n`` tokens; nothing for none."""
        if not n:
            return []
        if n not in self._texts:
            data = self._filler(n).encode()
            characters = media_ffi.new("char[]", data)
            text = media_ffi.new("struct mtmd_input_text *", (characters, len(data), False, True))
            made = media_ffi.new("struct mtmd_input_part *", {"text": text})
            # Another thread may have made the same, and be using it.
            self._texts.setdefault(n, (made, (characters, text)))
        return [self._texts[n][0]]

    def _filler(self, n: int) -> str:
        for text in self._fillers():
            for count in range(1, 2 * n + 1):
                if len(self._vocab.tokenize(text * count, add_special=False, parse_special=True)) == n:
                    return text * count
        raise UnsupportedError(f"this vocabulary has no text of {n} tokens, behind which libmtmd would align an image")

    def _fillers(self) -> Iterator[str]:
        yield from _FILLERS
        # Those of a large vocabulary take a while to find, and are hardly ever needed.
        yield from self._vocab.control_tokens


@contextmanager
def chunks_of(context: Any, parts: list[Any], what: str) -> Iterator[list[Any]]:
    """Tokenize parts of a prompt; yields pointers to ``mtmd_input_chunk``.

    Raises :class:`MediaError` about ``what``. Wraps ``mtmd_tokenize_from_parts``.
    """
    native = media_ffi.new("struct mtmd_input_part *[]", parts)
    with owned("chunks", "mtmd_input_chunks_free", "mtmd_input_chunks_init") as chunks:
        mark = log.mark()
        if guard.call_int("mtmd_tokenize_from_parts", context, chunks, native, len(parts), False):
            raise MediaError(f"{what} cannot be used", log=log.lines_since(mark))
        yield [media_lib.mtmd_input_chunks_get(chunks, i) for i in range(media_lib.mtmd_input_chunks_size(chunks))]


def is_text(chunk: Any) -> bool:
    """Whether a ``mtmd_input_chunk`` is text."""
    return bool(media_lib.mtmd_input_chunk_get_type(chunk) == media_lib.MTMD_INPUT_CHUNK_TYPE_TEXT)


@contextmanager
def _empty_image() -> Iterator[Any]:
    with owned("bitmap", "mtmd_bitmap_free", "mtmd_bitmap_init", _SIDE, _SIDE, media_ffi.NULL) as bitmap:
        yield media_ffi.new("struct mtmd_input_part *", {"bitmap": bitmap})


def _n_tokens(context: Any, parts: list[Any]) -> int:
    with chunks_of(context, parts, "an empty image") as chunks:
        return sum(int(media_lib.mtmd_input_chunk_get_n_tokens(chunk)) for chunk in chunks)


def _positions(context: Any, parts: list[Any]) -> list[bytes]:
    """The positions of each piece of images, as if it began at 0."""
    with chunks_of(context, parts, "an empty image") as chunks:
        return [decoder_positions(chunk, 0).tobytes() for chunk in chunks if not is_text(chunk)]


__all__ = ["Places", "chunks_of", "is_text"]
