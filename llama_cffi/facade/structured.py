"""What a constrained text is worth: an instance of the type asked for, or an error that keeps what there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi.errors import IncompleteOutput
from llama_cffi.reply.completion import Chunk, Completion, FinishReason

if TYPE_CHECKING:
    from llama_cffi.facade.stream import Stream
    from llama_cffi.grammar.structure import Structure

C = TypeVar("C", bound=Completion)


@dataclass(slots=True)
class StructuredChunk(Chunk):
    """A chunk of a text that follows a schema."""

    _structure: Structure | None = None
    _so_far: str = ""

    @property
    def partial(self) -> Any:
        """As :attr:`Chunk.partial`; parsed when asked for."""
        return None if self._structure is None else self._structure.partial(self._so_far)


def parse_completion(completion: C, structure: Structure, *, prefix: str = "") -> C:
    """The completion with what its text says, after ``prefix``.

    Raises :class:`IncompleteOutput` for a text that was cut, and what :meth:`Structure.parse` raises.
    """
    text = prefix + completion.text
    if completion.finish_reason is FinishReason.CANCELLED:
        return completion
    if completion.finish_reason is FinishReason.LENGTH:
        raise IncompleteOutput(
            f"the text was cut after {completion.usage.completion_tokens} tokens, before it was complete",
            completion=completion,
            partial=structure.partial(text),
        )
    if completion.stop_sequence is not None:
        raise IncompleteOutput(
            f"the stop string {completion.stop_sequence!r} cut the text before it was complete",
            completion=completion,
            partial=structure.partial(text),
        )
    return replace(completion, parsed=structure.parse(text))


class StructuredStream(Iterator[StructuredChunk]):
    """The chunks of a constrained text; the last one has the parsed completion, or raises as the text deserves."""

    def __init__(self, stream: Stream, structure: Structure) -> None:
        self._stream = stream
        self._structure = structure
        self._text = ""

    def __next__(self) -> StructuredChunk:
        chunk = next(self._stream)
        self._text += chunk.text
        completion = chunk.completion
        if completion is not None:
            completion = parse_completion(completion, self._structure)
        return StructuredChunk(chunk.text, chunk.tokens, chunk.logprobs, completion, self._structure, self._text)

    def close(self) -> None:
        """Cancel the request. Idempotent."""
        self._stream.close()


__all__ = ["StructuredChunk", "StructuredStream", "parse_completion"]
