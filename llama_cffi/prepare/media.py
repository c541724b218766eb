"""The images and sounds of prompts: as the tokens and cells that a model's projector makes of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_cffi._util.fork import fork_safe
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.place import FIRST_PLACE, Place
from llama_cffi.core.prompt import Media
from llama_cffi.engine.media_content import MediaContent, is_image
from llama_cffi.errors import MediaError, UnsupportedError
from llama_cffi.prompt.media_parts import Medium

if TYPE_CHECKING:
    from llama_cffi.core.media.projector import Projector

    Parts = tuple[int | Media, ...]

_KEPT = 256
"""Media whose cells are remembered."""
_PREPARED = 8
"""Of these, media whose input to the projector is kept until it is encoded: it takes megabytes."""


class MediaFormat:
    """What a projector makes of media; without one every medium is refused. Any thread may use it."""

    def __init__(self, projector: Projector | None, model_name: str) -> None:
        self.projector = projector
        self._model_name = model_name
        self._lock = fork_safe(threading.RLock())
        self._known: OrderedDict[tuple[bytes, Place], Parts] = OrderedDict()

    def parts(self, medium: Medium, name: str = "", *, before: Iterable[int | Media] = ()) -> Parts:
        """Return the tokens and the :class:`~llama_cffi.core.prompt.Media` that stand for a medium in a prompt.

        ``before`` is what the prompt has before it. Raises :class:`UnsupportedError` without a projector for it, and
        :class:`MediaError` for what cannot be decoded; ``name`` is that of the medium in their messages.
        """
        projector = self._check(medium, name)
        place = FIRST_PLACE if isinstance(medium, Audio) else projector.place(0, 0)
        if place != FIRST_PLACE:
            # A long prompt is looked through only where that matters.
            place = projector.place(*_counts(before))
        return self.placed(medium, place, name)

    def placed(self, medium: Medium, place: Place, name: str = "") -> Parts:
        """Return and raise as :meth:`parts` for a place in a prompt."""
        projector = self._check(medium, name)
        key = medium.digest, place
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        with _named(name):
            found = _cells(projector, medium, place)
        with self._lock:
            self._known[key] = found
            self._forget()
        return found

    def content(self, medium: Medium, index: int, place: Place) -> MediaContent | None:
        """Return a chunk of a medium that is remembered, maybe with its input to the projector; else None."""
        with self._lock:
            contents = _contents(self._known.get((medium.digest, place), ()))
            return next((one for one in contents if one.index == index), None)

    def _check(self, medium: Medium, name: str) -> Projector:
        kind, projector = "sound" if isinstance(medium, Audio) else "images", self.projector
        before = f"{name}: " if name else ""
        if projector is None:
            raise UnsupportedError(
                f"{before}{self._model_name} was opened without a projector, which {kind} need: give it with mmproj="
            )
        if not (projector.vision if kind == "images" else projector.audio):
            raise UnsupportedError(f"{before}the projector of {self._model_name} takes no {kind}")
        return projector

    def _forget(self) -> None:
        while len(self._known) > _KEPT:
            _drop(self._known.popitem(last=False)[1])
        prepared = [parts for parts in self._known.values() if any(one.prepared for one in _contents(parts))]
        for parts in prepared[:-_PREPARED]:
            _drop(parts)


def _counts(before: Iterable[int | Media]) -> tuple[int, int]:
    """How many images, and how many cells, are in a part of a prompt."""
    n_images = n_cells = 0
    for part in before:
        if isinstance(part, Media):
            n_cells += part.n_cells
            n_images += is_image(part)
        else:
            n_cells += 1
    return n_images, n_cells


def _cells(projector: Projector, medium: Medium, place: Place) -> Parts:
    found: list[int | Media] = []
    n_chunks = n_cells = 0
    for part in projector.tokenize(medium, place):
        if isinstance(part, list):
            found += part
            n_cells += len(part)
            continue
        content = MediaContent(medium, n_chunks, part, projector.fingerprint, place, n_cells)
        n_cells += part.n_tokens
        found.append(Media(part.digest, part.n_tokens, part.n_positions, content))
        n_chunks += 1
    return tuple(found)


def _contents(parts: Parts) -> Iterator[MediaContent]:
    return (part.content for part in parts if isinstance(part, Media))


def _drop(parts: Parts) -> None:
    for content in _contents(parts):
        content.forget()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of a medium before the message of its error."""
    try:
        yield
    except MediaError as error:
        if name:
            error.message = f"{name}: {error.message}"
        raise


__all__ = ["MediaFormat"]
