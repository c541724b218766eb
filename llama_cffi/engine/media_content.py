"""What the embeddings of a medium in a prompt are computed from, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.place import FIRST_PLACE, Place
from llama_cffi.errors import ContextOverflowError, PromptError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.media.chunk import MediaChunk
    from llama_cffi.core.media.image import Image
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.media.video import Video
    from llama_cffi.core.prompt import Media, Prompt


class MediaContent:
    """One chunk of an image or of sound: the ``content`` of a :class:`~llama_cffi.core.prompt.Media`.

    It keeps the projector's preprocessed input only until that is encoded: when the embeddings are needed once more,
    the input is made from the medium again. It pickles without that input.
    """

    __slots__ = ("_chunk", "_positions", "index", "medium", "non_causal", "offset", "place", "projector")

    def __init__(
        self,
        medium: Image | Audio | Video,
        index: int,
        chunk: MediaChunk,
        projector: bytes,
        place: Place = FIRST_PLACE,
        offset: int = 0,
    ) -> None:
        self.medium = medium
        self.index = index
        """Which chunk of the medium it is."""
        self.projector = projector
        """The fingerprint of the projector that made it."""
        self.place = place
        """That of the medium in a prompt, for which it was made."""
        self.offset = offset
        """Cells of the medium before it, those of text included."""
        self.non_causal = chunk.non_causal
        """Whether its cells attend to each other in both directions, which one micro-batch must then hold."""
        self._positions = _Positions.of(chunk.positions, chunk.n_tokens)
        self._chunk: MediaChunk | None = chunk

    @property
    def prepared(self) -> bool:
        """Whether the projector's input is in memory."""
        return self._chunk is not None

    def positions(self, pos_0: int) -> NDArray[np.int32]:
        """Return the positions of its cells when the first one is at ``pos_0``, as an :class:`EmbeddingBatch` takes
        them.
        """
        return self._positions.at(pos_0)

    def encode(self, projector: Projector) -> NDArray[np.float32]:
        """Return its embeddings, float32 of shape ``(n_cells, n_embd)``; raises the errors of the projector."""
        chunk = self._chunk
        if chunk is None:
            chunk = chunks_of(projector, self.medium, self.place)[self.index]
        embeddings = projector.encode(chunk)
        self._chunk = None
        return embeddings

    def forget(self) -> None:
        """Drop the projector's input."""
        self._chunk = None

    @property
    def state(self) -> tuple[Any, ...]:
        """What :meth:`of_state` makes an equal one of, without the projector's input."""
        return self.medium, self.index, self.projector, self.place, self.offset, self.non_causal, self._positions

    @classmethod
    def of_state(
        cls,
        medium: Image | Audio | Video,
        index: int,
        projector: bytes,
        place: Place,
        offset: int,
        non_causal: bool,
        positions: _Positions,
    ) -> MediaContent:
        """Make the content that has a :attr:`state`."""
        content = object.__new__(cls)
        content.medium, content.index, content.projector = medium, index, projector
        content.place, content.offset = place, offset
        content.non_causal, content._positions, content._chunk = non_causal, positions, None
        return content

    def __reduce__(self) -> tuple[Any, ...]:
        return MediaContent.of_state, self.state


def chunks_of(projector: Projector, medium: Image | Audio | Video, place: Place = FIRST_PLACE) -> list[MediaChunk]:
    """Return the chunks of a medium at a place in a prompt, without the text around them."""
    return [part for part in projector.tokenize(medium, place) if not isinstance(part, list)]


class _Positions:
    """Positions as a function of the first one, because the chunk that computes them is not kept.

    Each is a constant, or a constant above the first one: two samples say which.
    """

    __slots__ = ("_base", "_moves", "_n")

    def __init__(self, n: int, base: NDArray[np.int32] | None, moves: NDArray[np.int32] | None) -> None:
        self._n, self._base, self._moves = n, base, moves

    @classmethod
    def of(cls, positions: Callable[[int], NDArray[np.int32] | None], n: int) -> _Positions:
        base, next_ones = positions(0), positions(1)
        if base is None or next_ones is None:
            return cls(n, None, None)
        return cls(n, base, next_ones - base)

    def at(self, pos_0: int) -> NDArray[np.int32]:
        if self._base is None or self._moves is None:
            return np.arange(pos_0, pos_0 + self._n, dtype=np.int32)
        found: NDArray[np.int32] = self._base + np.int32(pos_0) * self._moves
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _Positions, (self._n, self._base, self._moves)


def is_image(media: Media) -> bool:
    """Whether media are an image, as far as that is known: all but sound."""
    return not (isinstance(media.content, MediaContent) and isinstance(media.content.medium, Audio))


def content_of(content: object) -> MediaContent:
    """Return the content of a medium; :class:`PromptError` where only its digest is known."""
    if isinstance(content, MediaContent):
        return content
    raise PromptError(
        "a medium of this prompt is not in memory any more, and only its digest is known: give the prompt with the "
        "image or sound itself"
    )


def check_media(prompt: Prompt, projector: bytes, n_ubatch: int) -> None:
    """Raise for media that cannot be decoded: :class:`PromptError` where another projector made them, or for another
    place in a prompt, and :class:`ContextOverflowError` for a medium that one micro-batch must hold and cannot.
    """
    n_images = 0
    for span in prompt.media:
        content, n = span.media.content, span.media.n_cells
        n_before, n_images = n_images, n_images + is_image(span.media)
        if not isinstance(content, MediaContent):
            continue  # it may be in memory
        if content.projector != projector:
            raise PromptError("a medium of this prompt was prepared with another projector, or with other options")
        if not content.place.fits(n_before - content.index, span.start - content.offset):
            raise PromptError(
                f"{content.medium!r} was prepared for another place in a prompt, and this projector numbers or aligns "
                "images: make the prompt from its texts and media"
            )
        if content.non_causal and n > n_ubatch:
            raise ContextOverflowError(
                f"{content.medium!r} takes {n} cells, which are computed at once; n_ubatch={n_ubatch} is too small: "
                f"open the model with n_ubatch={n} or more, or with a smaller image_max_tokens"
            )


__all__ = ["MediaContent", "check_media", "chunks_of", "content_of", "is_image"]
