"""Media become embeddings: on a thread of its own, once for each content."""

from __future__ import annotations

import copy
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from llama_cffi._util.fork import fork_safe
from llama_cffi._util.worker import ThreadPool
from llama_cffi.core.prompt import Media
from llama_cffi.errors import ClosedError, LlamaCffiError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embeddings = NDArray[np.float32]


class Encoding:
    """The embeddings of one medium: on their way, there, or failed. Those that want them keep it alive."""

    __slots__ = ("__weakref__", "_error", "_found", "media")

    def __init__(self, media: Media, found: Embeddings | None = None) -> None:
        self.media = media
        self._found = found
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether :meth:`result` returns or raises at once."""
        return self._found is not None or self._error is not None

    def set(self, found: Embeddings | None, error: BaseException | None) -> None:
        """Say what became of it."""
        self._found, self._error = found, error

    def result(self) -> Embeddings:
        """Return the embeddings, float32 of shape ``(n_cells, n_embd)``; raises why there are none."""
        if self._found is not None:
            return self._found
        if isinstance(self._error, LlamaCffiError):
            raise copy.copy(self._error) from self._error.__cause__  # other sequences raise it, too
        raise LlamaCffiError(f"a medium cannot be encoded: {self._error!r}") from self._error


class MediaEncoder:
    """Encodes media one after another on a separate thread, and keeps the embeddings used last.

    ``encode`` computes the embeddings of one medium; it is only called on that thread. Several engines may share an
    encoder. What no sequence wants any more when its turn comes is not encoded.
    """

    def __init__(self, encode: Callable[[Media], Embeddings], max_bytes: int, *, projector: bytes = b"") -> None:
        self._encode = encode
        self.projector = projector
        """The fingerprint of the projector, which made what is encoded."""
        self.max_bytes = max_bytes
        """The most bytes of embeddings that are kept."""
        self._pool = ThreadPool(1)
        self._changed = threading.Condition(fork_safe(threading.RLock()))
        self._kept: OrderedDict[bytes, Embeddings] = OrderedDict()
        self._underway: weakref.WeakValueDictionary[bytes, Encoding] = weakref.WeakValueDictionary()
        self.n_encoded = 0
        """Media that were encoded."""

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings that are kept."""
        return sum(kept.nbytes for kept in tuple(self._kept.values()))

    def request(self, media: Media) -> Encoding:
        """Return the embeddings of a medium if they are known, and otherwise have them computed."""
        with self._changed:
            found = self._underway.get(media.digest)
            if found is not None and not found.done:
                return found
            kept = self._kept.get(media.digest)
            if kept is not None:
                self._kept.move_to_end(media.digest)
                return Encoding(media, kept)
            encoding = self._underway[media.digest] = Encoding(media)
        job = partial(self._work, weakref.ref(encoding))
        try:
            self._pool.submit(job)
        except RuntimeError as error:
            encoding.set(None, ClosedError(f"media cannot be encoded any more: {error}"))
        return encoding

    def _work(self, reference: weakref.ref[Encoding]) -> None:
        encoding = reference()
        if encoding is None:
            return
        found, error = None, None
        try:
            found = self._encode(encoding.media)
        except BaseException as raised:
            error = raised
        with self._changed:
            if found is not None:
                self.n_encoded += 1
                self._keep(encoding.media.digest, found)
            encoding.set(found, error)
            self._changed.notify_all()

    def _keep(self, digest: bytes, found: Embeddings) -> None:
        if found.nbytes > self.max_bytes:
            return
        self._kept[digest] = found
        total = self.nbytes
        while total > self.max_bytes:
            total -= self._kept.popitem(last=False)[1].nbytes

    def rest(self, encodings: Iterable[Encoding], seconds: float) -> None:
        """Wait until one of the encodings is done, :meth:`wake` is called, or the time has passed."""
        with self._changed:
            if not any(one.done for one in encodings):
                self._changed.wait(seconds)

    def wake(self) -> None:
        """End every :meth:`rest`: there is something else to do."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Encode nothing that has not begun. Idempotent."""
        self._pool.shutdown()


__all__ = ["Encoding", "MediaEncoder"]
