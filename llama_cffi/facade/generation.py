"""Continuing a text: at once, in chunks, or many in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from llama_cffi.engine.request import Chunk, Completion, Overflow, Request, SamplingKwargs, SamplingParams
from llama_cffi.errors import PromptError
from llama_cffi.facade.base import Base
from llama_cffi.facade.stream import Stream
from llama_cffi.facade.structured import StructuredStream, parse_completion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.text.constraint.schema import Schema, Structure


class GenerateOptions(SamplingKwargs, total=False):
    """What every generating call takes beside its prompt: the fields of :class:`SamplingParams`, and these."""

    max_tokens: int | None
    """Most tokens to generate; None (the default) goes on until the model ends its text or the context is full."""
    stop: str | SequenceOf[str]
    """Strings that end the text and are not part of it."""
    logprobs: int | None
    """Report each token's log-probability with this many alternatives."""
    overflow: Overflow | None
    """What happens when the text fills the context; None is what the Llama was made with."""
    sampling: SamplingParams | None
    """The sampling parameters as one value, instead of their fields."""
    schema: Schema | None
    """What the text must look like: a type, a JSON Schema, choices, a regular expression or a grammar; see
    ``docs/structured-output.md``. The completion's ``parsed`` is an instance of it."""


class Generation(Base):
    """The generating methods of a :class:`~llama_cffi.llama.Llama`."""

    @overload
    def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> Completion: ...

    @overload
    def generate(
        self, prompt: SequenceOf[int] | NDArray[np.int32], **options: Unpack[GenerateOptions]
    ) -> Completion: ...

    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Unpack[GenerateOptions]) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32] | list[str] | list[list[int]],
        **options: Unpack[GenerateOptions],
    ) -> Completion | list[Completion]:
        """Continue a prompt; a list of prompts gives a list of completions, computed together.

        The options are those of :class:`GenerateOptions`: ``max_tokens``, ``stop``, ``logprobs``, ``overflow``, and
        sampling as ``sampling=SamplingParams(...)`` or by its fields (``temperature=0`` is greedy). In a list every
        prompt uses the same seed, so each result is what the prompt alone would give.

        Raises :class:`PromptError` (:class:`ContextOverflowError` among them), :class:`SchemaError` and
        :class:`SamplerError` before anything is computed, :class:`GrammarError` and :class:`DecodeError` while
        computing, and :class:`IncompleteOutput` when a text with a schema was cut. Ctrl-C stops within a fraction of a
        second and leaves the object usable.
        """
        engine = self._open_engine()
        structure = self._structure(options.pop("schema", None))
        many = _is_list_of_prompts(prompt)
        prompts: Any = list(prompt) if many else [prompt]
        requests = [self._request(one, structure, **options) for one in prompts]
        sequences = []
        completions = []
        try:
            for request in requests:
                sequences.append(engine.submit(request))
            for sequence in sequences:
                while (chunk := engine.next_chunk(sequence)) is not None:
                    if chunk.completion is not None:
                        completions.append(chunk.completion)
        finally:
            for sequence in sequences:
                engine.cancel(sequence)
        if structure is not None:
            completions = [parse_completion(completion, structure) for completion in completions]
        return completions if many else completions[0]

    def stream(
        self, prompt: str | SequenceOf[int] | NDArray[np.int32], **options: Unpack[GenerateOptions]
    ) -> Iterator[Chunk]:
        """The same as an iterator of chunks; the last one carries the :class:`Completion`.

        What :meth:`generate` raises before computing is raised by this call, not by the first iteration. Closing the
        iterator cancels. Several streams may be read in turn, or by several threads.
        """
        engine = self._open_engine()
        structure = self._structure(options.pop("schema", None))
        stream = Stream(engine, self._request(prompt, structure, **options))
        return stream if structure is None else StructuredStream(stream, structure)

    def _structure(self, schema: Schema | None) -> Structure | None:
        if schema is None:
            return None
        # llguidance and pydantic take 0.1 s to import, which plain text need not pay.
        from llama_cffi.text.constraint.schema import compile_schema

        return compile_schema(schema, self.model.vocab)

    def _request(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        structure: Structure | None = None,
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        **fields: Unpack[SamplingKwargs],
    ) -> Request:
        vocab = self.model.vocab
        tokens = vocab.tokenize(prompt) if isinstance(prompt, str) else vocab.check_tokens(prompt)
        if not len(tokens):
            raise PromptError("the prompt has no tokens, and this model puts no BOS before a text")
        return Request(
            tokens=tuple(tokens.tolist()),
            sampling=_sampling(sampling, fields),
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=logprobs,
            overflow=overflow if overflow is not None else self.overflow,
            constraint=None if structure is None else structure.constraint,
        )


def _sampling(sampling: SamplingParams | None, fields: SamplingKwargs) -> SamplingParams:
    unknown = fields.keys() - SamplingKwargs.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option{'s' * (len(unknown) > 1)}: {', '.join(sorted(unknown))}")
    if sampling is None:
        return SamplingParams(**fields)
    if fields:
        raise TypeError(f"give sampling= or its fields, not both: {', '.join(fields)}")
    return sampling


def _is_list_of_prompts(prompt: object) -> bool:
    if isinstance(prompt, (str, bytes, np.ndarray)) or not isinstance(prompt, SequenceOf):
        return False
    return not len(prompt) or not isinstance(prompt[0], (int, np.integer))
