"""Continuing a text: at once, in chunks, or many in one batch."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from llama_cffi.core.adapter import adapter_set
from llama_cffi.engine.request import Chunk, Completion, Overflow, Request, SamplingKwargs, SamplingParams
from llama_cffi.errors import PromptError
from llama_cffi.facade.base import Base

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.engine.engine import Engine


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
    adapters: Mapping[LoraAdapter, float] | None
    """LoRA adapters and their scales; None (the default) is what :meth:`~Llama.set_adapters` said."""


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

        The options are those of :class:`GenerateOptions`: ``max_tokens``, ``stop``, ``logprobs``, ``overflow``,
        ``adapters``, and sampling as ``sampling=SamplingParams(...)`` or by its fields (``temperature=0`` is greedy).
        In a list every prompt uses the same seed, so each result is what the prompt alone would give.

        Raises :class:`PromptError` (:class:`ContextOverflowError` among them) and :class:`SamplerError` before
        anything is computed, :class:`GrammarError` and :class:`DecodeError` while computing. Ctrl-C stops within a
        fraction of a second and leaves the object usable.
        """
        engine = self._open_engine()
        many = _is_list_of_prompts(prompt)
        prompts: Any = list(prompt) if many else [prompt]
        requests = [self._request(one, **options) for one in prompts]
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
        return completions if many else completions[0]

    def stream(
        self, prompt: str | SequenceOf[int] | NDArray[np.int32], **options: Unpack[GenerateOptions]
    ) -> Iterator[Chunk]:
        """The same as an iterator of chunks; the last one carries the :class:`Completion`.

        What :meth:`generate` raises before computing is raised by this call, not by the first iteration. Closing the
        iterator cancels. Several streams may be read in turn, or by several threads.
        """
        return _Stream(self._open_engine(), self._request(prompt, **options))

    def _request(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        adapters: Mapping[LoraAdapter, float] | None = None,
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
            adapters=self._adapters if adapters is None else adapter_set(adapters, self.model),
        )


class _Stream(Iterator[Chunk]):
    """The chunks of one request. Submitted when made, so that a bad request fails at the call."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self._sequence = engine.submit(request)
        self._next = engine.next_chunk
        # A stream that nobody reads any more must not go on computing in other callers' batches.
        weakref.finalize(self, engine.abandon, self._sequence).atexit = False

    def __iter__(self) -> Iterator[Chunk]:
        # A loop calls the engine without a frame of this class in between; see Engine._step.
        following = partial(self._next, self._sequence)
        following.stream = self  # type: ignore[attr-defined]  # what finalizes it must live as long
        return iter(following, None)

    def __next__(self) -> Chunk:
        chunk = self._next(self._sequence)
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Cancel the request. Idempotent."""
        self._engine.cancel(self._sequence)


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
