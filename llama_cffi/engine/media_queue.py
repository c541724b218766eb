"""The media of running sequences: which are encoded next, and which sequence waits for that."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from llama_cffi.core.prompt import Prompt, reusable
from llama_cffi.engine.media_encoder import MediaEncoder
from llama_cffi.engine.running_sequence import RunningSequence

_AHEAD = 2
"""Media of one sequence that are encoded before they are needed, the next one included."""
_REST_SECONDS = 0.05
"""Seconds after which a thread that waits for embeddings looks around: a new request may have come."""


class MediaQueue:
    """Has the media of running sequences encoded, a little ahead of their decodes."""

    def __init__(self, encoder: MediaEncoder) -> None:
        self._encoder = encoder

    def waits(self, sequence: RunningSequence) -> bool:
        """Whether the next cells of a sequence are those of a medium whose embeddings are not there yet."""
        n_past, encodings = sequence.n_past, sequence.encodings
        n_ahead, waits = 0, False
        for span in sequence.request.prompt.media:
            if span.end <= n_past:
                encodings.pop(span.start, None)
                continue
            encoding = encodings.get(span.start)
            if encoding is None:
                encoding = encodings[span.start] = self._encoder.request(span.media)
            if span.start == n_past:
                waits = not encoding.done
            n_ahead += 1
            if n_ahead == _AHEAD:
                break
        return waits

    def prefetch(self, sequence: RunningSequence, held: Iterable[Prompt]) -> None:
        """Have the first medium of a sequence encoded that none of what is held spares."""
        whole = sequence.wanted
        n_held = max((reusable(one, whole) for one in held), default=0) if whole else 0
        for span in sequence.request.prompt.media:
            if span.end > n_held:
                sequence.encodings[span.start] = self._encoder.request(span.media)
                return

    def rest(self, sequences: Iterable[RunningSequence], deadline: float | None) -> bool:
        """Wait a moment for the embeddings that sequences need next, until a :func:`time.monotonic` deadline at most;
        False where none needs any.
        """
        needed = [found for one in sequences if (found := one.encodings.get(one.n_past)) is not None]
        if not needed:
            return False
        most = _REST_SECONDS if deadline is None else max(0.0, min(_REST_SECONDS, deadline - monotonic()))
        self._encoder.rest(needed, most)
        return True

    def wake(self) -> None:
        """End every wait: there is something else to do."""
        self._encoder.wake()


__all__ = ["MediaQueue"]
