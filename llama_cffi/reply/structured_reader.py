"""Reads a text that follows a schema: an instance of the requested type, or an error that has the text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi.grammar.acceptance import accepts
from llama_cffi.grammar.structure import Converter, LazyConverter, TextConverter
from llama_cffi.reply.completion import Chunk, Completion, FinishReason
from llama_cffi.reply.reader import incomplete, is_cut

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.structure import Structure


@dataclass(frozen=True, slots=True)
class _Known:
    """What stands for a structure in a chunk that was copied or pickled: what its text said."""

    value: Any

    def partial(self, text: str) -> Any:
        return self.value


@dataclass(slots=True)
class StructuredChunk(Chunk):
    """A chunk of a text that follows a schema."""

    _structure: Structure | _Known | None = field(default=None, repr=False, compare=False)
    _so_far: str = field(default="", repr=False, compare=False)

    @property
    def partial(self) -> Any:
        """As :attr:`Chunk.partial`; parsed when asked for."""
        return None if self._structure is None else self._structure.partial(self._so_far)

    def __reduce__(self) -> tuple[Any, ...]:
        # A structure cannot leave the process, and what the text says can.
        said = (self.text, self.tokens, self.logprobs, self.completion, _Known(self.partial))
        return StructuredChunk, said


T = TypeVar("T", bound=Completion)


class StructuredReader:
    """A :class:`~llama_cffi.reply.reader.Reader` of a text that a structure holds, in one vocabulary.

    With ``keep_incomplete`` a text that was cut is returned, marked as such, and not raised as an error.
    """

    def __init__(self, structure: Structure, vocab: Vocab, *, keep_incomplete: bool = False) -> None:
        self._keep_incomplete = keep_incomplete
        self._structure = structure
        self._vocab = vocab
        self._text = ""

    def feed(self, chunk: Chunk) -> StructuredChunk:
        """Return the chunk, which knows what the text so far says."""
        self._text += chunk.text
        return StructuredChunk(chunk.text, chunk.tokens, chunk.logprobs, None, self._structure, self._text)

    def finish(self, completion: Completion) -> Completion:
        """Return the completion with ``parsed``; raises the errors of :meth:`Reader.finish`."""
        return parsed(completion, self._structure, self._vocab, keep_incomplete=self._keep_incomplete)


def _may_end_anywhere(converter: Converter, text: str) -> bool:
    """Whether a text means the same wherever its constraint lets it end: not in the middle of a number."""
    if isinstance(converter, LazyConverter):
        return bool(converter.end) or not any(trigger in text for trigger in converter.triggers)
    return isinstance(converter, TextConverter)


def parsed(completion: T, structure: Structure, vocab: Vocab, *, prefix: str = "", keep_incomplete: bool = False) -> T:
    """Return the completion with what its text says, after ``prefix``; raises the errors of :meth:`Reader.finish`.

    A text that was cut counts when it is complete all the same: by a grammar or a pattern wherever it may end, by a
    schema or choices only where nothing more could have come.
    """
    if completion.finish_reason is FinishReason.CANCELLED:
        return completion
    text = prefix + completion.text
    final = not _may_end_anywhere(structure.converter, text)
    if is_cut(completion) and not accepts(structure.constraint, vocab, text, final=final):
        if keep_incomplete:
            return replace(completion, incomplete=True)
        raise incomplete(completion, "the text", "before it was complete", lambda: structure.partial(text))
    return replace(completion, parsed=structure.parse(text))


__all__ = ["StructuredChunk", "StructuredReader", "parsed"]
