"""A piece of a medium as a projector takes it, and the cells that it takes in a prompt."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from llama_cffi._native import guard, media_ffi, media_lib
from llama_cffi._native.handle import Handle
from llama_cffi.core.media.image import DIGEST_SIZE
from llama_cffi.core.native_object import NativeObject
from llama_cffi.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ChunkKind = Literal["image", "audio"]
_Places: TypeAlias = "tuple[NDArray[np.int32], NDArray[np.int32]]"


class MediaChunk(NativeObject):
    """A piece of an image or a sound: what :meth:`Projector.tokenize` makes, and :meth:`Projector.encode` takes.

    A small image is one piece; some models see a large one as several, and hear a long sound as several. The piece
    holds its pixels or its spectrogram, as the projector computes with them, until :meth:`close` or until it is
    collected; everything but :meth:`Projector.encode` works afterwards, too. It needs no projector to stay alive.
    """

    _instead_of_pickling = "send the Image or the Audio, and tokenize it there"
    _instead_of_copying = "share it"

    kind: ChunkKind
    """Whether it is of an image or of a sound."""
    n_tokens: int
    """The cells of memory that it takes: rows of its embeddings."""
    n_positions: int
    """The positions that it takes: ``n_tokens``, and fewer for images where positions have several dimensions."""
    digest: bytes
    """16 bytes: a hash of the medium, of the projector's weights and image sizes, of the piece's index, and of its
    alignment in a prompt, where there is one."""
    non_causal: bool
    """Whether its tokens attend to each other in both directions, and so must be decoded at once without causal
    attention. Wraps ``mtmd_decode_use_non_causal``."""
    projector_id: bytes
    """What :attr:`Projector.fingerprint` is for the projector that encodes it."""

    def __init__(
        self, chunk: Any, context: Any, *, medium: bytes, index: int, projector_id: bytes, uses_mrope: bool
    ) -> None:
        """Copy a ``mtmd_input_chunk`` of a list. For :class:`Projector`, which holds its native context meanwhile."""
        lib = media_lib
        kind = lib.mtmd_input_chunk_get_type(chunk)
        self.kind = "image" if kind == lib.MTMD_INPUT_CHUNK_TYPE_IMAGE else "audio"
        self.n_tokens = guard.call_int("mtmd_input_chunk_get_n_tokens", chunk)
        self.n_positions = guard.call_int("mtmd_input_chunk_get_n_pos", chunk)
        if not 1 <= self.n_positions <= self.n_tokens:
            raise MediaError(
                f"libmtmd makes {self.n_tokens} tokens and {self.n_positions} positions of this {self.kind}, which "
                "cannot be decoded"
            )
        self.non_causal = bool(lib.mtmd_decode_use_non_causal(context, chunk))
        self.projector_id = projector_id
        found = blake2b(digest_size=DIGEST_SIZE)
        found.update(b"chunk" + index.to_bytes(8, "little") + projector_id + medium)
        self.digest = found.digest()
        self._places: _Places | None = _positions(chunk, self.n_tokens) if uses_mrope else None
        self._handle = handle = Handle("MediaChunk", partial(guard.free, "mtmd_input_chunk_free"))
        try:
            handle.open(guard.call_ptr("mtmd_input_chunk_copy", chunk, cell=handle.cell))
        except BaseException:
            handle.release()
            raise

    def positions(self, pos_0: int) -> NDArray[np.int32] | None:
        """Return the positions of the tokens in a prompt where the piece begins at position ``pos_0``.

        int32 of shape ``(4, n_tokens)``, one row for each of the model's sections: time, height, width and the one
        that is not used, as :class:`~llama_cffi.core.embedding_batch.EmbeddingBatch` takes them. None where positions
        have one dimension: they are ``pos_0`` to ``pos_0 + n_tokens - 1`` then. Equal to what
        ``mtmd_helper_decode_image_chunk`` decodes with.
        """
        if self._places is None:
            return None
        first, steps = self._places
        found: NDArray[np.int32] = first + steps * np.int32(pos_0)
        return found

    def __repr__(self) -> str:
        return f"<MediaChunk {self.kind}, {self.n_tokens} tokens, {self.n_positions} positions>"


def _positions(chunk: Any, n_tokens: int) -> _Places:
    """The positions of a piece that begins at 0, and what each grows by when it begins one later."""
    image = media_lib.mtmd_input_chunk_get_tokens_image(chunk)
    if image == media_ffi.NULL:
        places = np.repeat(np.arange(n_tokens, dtype=np.int32)[None], 4, axis=0)
        return places, np.ones_like(places)
    first = decoder_positions(chunk, 0)
    return first, decoder_positions(chunk, 1) - first


def decoder_positions(chunk: Any, pos_0: int) -> NDArray[np.int32]:
    """Return the positions of a ``mtmd_input_chunk`` of an image that begins at ``pos_0``: int32 of shape
    ``(4, n_tokens)``, in the order of a batch.
    """
    n_tokens = guard.call_int("mtmd_input_chunk_get_n_tokens", chunk)
    native = media_ffi.new("struct mtmd_decoder_pos[]", n_tokens)
    image = media_lib.mtmd_input_chunk_get_tokens_image(chunk)
    guard.call_int("mtmd_helper_image_get_decoder_pos", image, pos_0, native)
    columns = np.frombuffer(media_ffi.buffer(native), dtype=np.uint32).reshape(n_tokens, 4).astype(np.int32)
    # The struct has time, x, y, z; a batch has time, y, x, z.
    return np.ascontiguousarray(columns[:, (0, 2, 1, 3)].T)


__all__ = ["ChunkKind", "MediaChunk", "decoder_positions"]
