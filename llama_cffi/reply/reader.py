"""Readers of the chunks of one text. They do no input or output and never wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from llama_cffi.errors import IncompleteOutput, LlamaCffiError
from llama_cffi.reply.completion import Chunk, Completion, FinishReason

C = TypeVar("C", bound=Chunk, covariant=True)
R = TypeVar("R", bound=Chunk)


class Reader(Protocol[C]):
    """Reads one text: every chunk in turn, then its end."""

    def feed(self, chunk: Chunk) -> C:
        """Return what a chunk adds. The last chunk is given, too, and its completion left to :meth:`finish`."""

    def finish(self, completion: Completion) -> Completion:
        """Return what the whole text is worth.

        Raises :class:`IncompleteOutput` for a text that was cut before it was complete, and :class:`OutputError` for
        one that the asked type refuses.
        """


class Reading(Generic[R]):
    """Reads the chunks of one request. An error about the end of the text is raised after the last chunk."""

    __slots__ = ("_error", "reader")

    def __init__(self, reader: Reader[R] | None) -> None:
        self.reader = reader
        """None when the chunks are what they are."""
        self._error: LlamaCffiError | None = None

    def check(self) -> None:
        """Raise what is wrong with a text that has been read to its end, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def read(self, chunk: Chunk) -> R:
        """Return what a chunk is to the caller."""
        reader = self.reader
        if reader is None:
            return cast("R", chunk)
        read = reader.feed(chunk)
        if chunk.completion is not None:
            try:
                read.completion = reader.finish(chunk.completion)
            except LlamaCffiError as error:
                self._error = error
        return read


def is_cut(completion: Completion) -> bool:
    """Return whether something else than the model, or a constraint that was complete, ended the text."""
    return completion.stop_sequence is not None or completion.finish_reason in (
        FinishReason.LENGTH,
        FinishReason.DEADLINE,
    )


def incomplete(
    completion: Completion, what: str, missing: str, partial: Callable[[], Any] | None = None
) -> IncompleteOutput:
    """Return the error for a text that was cut: ``what`` it is, and what is ``missing`` of it."""
    n = completion.usage.completion_tokens
    if completion.stop_sequence is not None:
        how = f"the stop string {completion.stop_sequence!r} cut {what}"
    elif completion.finish_reason is FinishReason.DEADLINE:
        how = f"{what} was cut by its deadline, after {n} tokens"
    elif completion.finish_reason is FinishReason.LENGTH:
        how = f"{what} was cut after {n} tokens"
    else:
        how = f"the model ended {what} after {n} tokens"
    return IncompleteOutput(f"{how}, {missing}", completion=completion, partial=None if partial is None else partial())


__all__ = ["Reader", "Reading", "incomplete", "is_cut"]
