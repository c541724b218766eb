"""Continuing a text: at once, in chunks, or many in one batch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from llama_cffi._util.seed import MAX_SEED, draw_seed
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.request import Overflow, Request, Stop
from llama_cffi.engine.sampling_params import SamplingKwargs, SamplingParams
from llama_cffi.errors import PromptError, SamplerError
from llama_cffi.facade.base import Base
from llama_cffi.facade.bias import token_bias
from llama_cffi.facade.draft import Speculative, request_source
from llama_cffi.facade.stream import Stream
from llama_cffi.facade.structured import StructuredStream, parse_completion
from llama_cffi.grammar.healing import Healing, tokens_to_heal
from llama_cffi.grammar.piece_index import PieceIndex
from llama_cffi.prompt.infill import InfillFormat
from llama_cffi.reply.completion import Chunk, Completion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.grammar.structure import Structure


class GenerateOptions(SamplingKwargs, total=False):
    """What every generating call takes beside its prompt: the fields of :class:`SamplingParams`, and these."""

    max_tokens: int | None
    """Most tokens to generate; None (the default) goes on until the model ends its text or the context is full."""
    stop: Stop | SequenceOf[Stop]
    """What ends the text and is not part of it: strings, tokens, compiled regular expressions."""
    logprobs: int | None
    """Report each token's log-probability with this many alternatives."""
    max_seconds: float | None
    """Seconds after which the text ends with what there is, reason ``deadline``; also within a long prompt."""
    echo: bool
    """Begin the result with the prompt."""
    heal: bool
    """Let the model write the end of the prompt again, where a longer token could stand there; see
    :mod:`~llama_cffi.grammar.healing`. The result still is what follows the prompt."""
    overflow: Overflow | None
    """What happens when the text fills the context; None is what the Llama was made with."""
    speculative: Speculative | None
    """Whether tokens are drafted ahead, and by what; None is what the Llama was made with."""
    sampling: SamplingParams | None
    """The sampling parameters as one value, instead of their fields."""
    adapters: Mapping[LoraAdapter, float] | None
    """LoRA adapters and their scales; None (the default) is what :meth:`~Llama.set_adapters` said."""
    schema: Any
    """What the text must look like: a type, a JSON Schema, choices, a regular expression or a grammar; see
    ``docs/structured-output.md``. The completion's ``parsed`` is an instance of it."""


class Generation(Base):
    """The generating methods of a :class:`~llama_cffi.llama.Llama`."""

    @overload
    def generate(
        self,
        prompt: str,
        *,
        n: None = None,
        best_of: int | None = None,
        suffix: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: SequenceOf[int] | NDArray[np.int32],
        *,
        n: None = None,
        best_of: int | None = None,
        suffix: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        *,
        n: int,
        best_of: int | None = None,
        suffix: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...

    @overload
    def generate(
        self, prompt: list[str] | list[list[int]], *, suffix: str | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32] | list[str] | list[list[int]],
        *,
        n: int | None = None,
        best_of: int | None = None,
        suffix: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion | list[Completion]:
        """Continue a prompt; a list of prompts gives a list of completions, computed together.

        The options are those of :class:`GenerateOptions`: ``max_tokens``, ``stop``, ``logprobs``, ``overflow`` and so
        on, and sampling as ``sampling=SamplingParams(...)`` or by its fields (``temperature=0`` is greedy). In a list
        every prompt uses the same seed, so each result is what the prompt alone would give.

        ``n`` gives a list of n completions of one prompt, which is computed once; number i has the seed plus i.
        ``best_of`` makes so many and keeps the one (with ``n``: the n) with the best mean log-probability per token,
        best first. ``suffix`` is what comes after the text: the prompt is a fill-in-the-middle one then, as
        :meth:`Llama.infill` makes it.

        Raises :class:`PromptError` (:class:`ContextOverflowError` among them), :class:`SchemaError` and
        :class:`SamplerError` before anything is computed, :class:`GrammarError` and :class:`DecodeError` while
        computing, and :class:`IncompleteOutput` when a text with a schema was cut. Ctrl-C stops within a fraction of a
        second and leaves the object usable.
        """
        rest: dict[str, Any] = {**options}
        structure = self._structure(rest.pop("schema", None))
        many = _is_list_of_prompts(prompt)
        prompts: Any = list(prompt) if many else [prompt]
        if n is not None or best_of is not None:
            if many:
                raise ValueError("n and best_of are for one prompt, not for a list")
            return self._choices(self._request(prompts[0], structure, suffix=suffix, **rest), structure, n, best_of)
        completions = self._run([self._request(one, structure, suffix=suffix, **rest) for one in prompts])
        completions = _parsed(completions, structure)
        return completions if many else completions[0]

    def _choices(
        self, request: Request, structure: Structure | None, n: int | None, best_of: int | None
    ) -> Completion | list[Completion]:
        keep = 1 if n is None else n
        count = keep if best_of is None else best_of
        if not isinstance(keep, int) or not isinstance(count, int) or not 1 <= keep <= count:
            raise ValueError(f"n must be at least 1 and at most best_of, got n={n!r}, best_of={best_of!r}")
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else draw_seed()
        logprobs = 0 if request.logprobs is None and best_of is not None else request.logprobs
        completions = self._run(
            [
                replace(request, logprobs=logprobs, sampling=replace(sampling, seed=(seed + i) % (MAX_SEED + 1)))
                for i in range(count)
            ]
        )
        if best_of is not None:
            completions.sort(key=_likelihood, reverse=True)
        if request.logprobs is None:
            completions = [replace(completion, logprobs=None) for completion in completions]
        completions = _parsed(completions[:keep], structure)
        return completions[0] if n is None else completions

    def _run(self, requests: list[Request]) -> list[Completion]:
        engine = self._open_engine()
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
        return completions

    def stream(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        *,
        suffix: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Chunk]:
        """The same as an iterator of chunks; the last one carries the :class:`Completion`.

        What :meth:`generate` raises before computing is raised by this call, not by the first iteration. Closing the
        iterator cancels. Several streams may be read in turn, or by several threads.
        """
        engine = self._open_engine()
        rest: dict[str, Any] = {**options}
        structure = self._structure(rest.pop("schema", None))
        stream = Stream(engine, self._request(prompt, structure, suffix=suffix, **rest))
        return stream if structure is None else StructuredStream(stream, structure)

    def _structure(self, schema: Any) -> Structure | None:
        if schema is None:
            return None
        # llguidance and pydantic take 0.1 s to import, which plain text need not pay.
        from llama_cffi.grammar.schema import compile_schema

        return compile_schema(schema, self.model.vocab)

    def _request(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        structure: Structure | None = None,
        *,
        max_tokens: int | None = None,
        stop: Stop | SequenceOf[Stop] = (),
        logprobs: int | None = None,
        max_seconds: float | None = None,
        suffix: str | None = None,
        echo: bool = False,
        heal: bool = False,
        overflow: Overflow | None = None,
        speculative: Speculative | None = None,
        sampling: SamplingParams | None = None,
        adapters: Mapping[LoraAdapter, float] | None = None,
        **fields: Unpack[SamplingKwargs],
    ) -> Request:
        if suffix is None:
            tokens = self._prompt_tokens(prompt)
        else:
            if not isinstance(prompt, str):
                raise TypeError("a prompt with suffix= must be a text: both get tokens around them")
            if echo or heal:
                raise ValueError("echo= and heal= mean nothing where a middle is filled in")
            tokens = self._infill_format.tokens(prompt, suffix)
        text = ""
        if echo:
            text = prompt if isinstance(prompt, str) else self.detokenize(tokens, unparse_special=False)
        n_healed, healed = tokens_to_heal(tokens, self._piece_index) if heal else (0, "")
        if "logit_bias" in fields:
            fields["logit_bias"] = token_bias(fields["logit_bias"], self.model.vocab, lambda: self._piece_index)  # type: ignore[arg-type]
        params = _sampling(sampling, fields)
        if heal and params.grammar is not None:
            raise SamplerError("heal= and a grammar cannot both decide how the text begins")
        if structure is not None and (heal or echo):
            raise ValueError(f"{'heal' if heal else 'echo'}= and schema= cannot both decide how the text begins")
        return Request(
            prompt=Prompt(tokens[: len(tokens) - n_healed]),
            sampling=params,
            max_tokens=max_tokens,
            max_seconds=max_seconds,
            stop=self._stops(stop),
            echo=text,
            healed=healed,
            constraint=Healing(self._piece_index, healed) if healed else structure.constraint if structure else None,
            logprobs=logprobs,
            overflow=overflow if overflow is not None else self.overflow,
            speculative=request_source(speculative, self._draft),
            conditioning=self._conditioning.with_adapters(adapters, self.model),
        )

    def _prompt_tokens(self, prompt: str | SequenceOf[int] | NDArray[np.int32]) -> list[int]:
        vocab = self.model.vocab
        tokens = vocab.tokenize(prompt) if isinstance(prompt, str) else vocab.check_tokens(prompt)
        if not len(tokens):
            raise PromptError("the prompt has no tokens, and this model puts no BOS before a text")
        found: list[int] = tokens.tolist()
        return found

    def _stops(self, stop: Stop | SequenceOf[Stop]) -> tuple[Stop, ...]:
        stops = (stop,) if isinstance(stop, (str, int, re.Pattern)) else tuple(stop)
        self.model.vocab.check_tokens([one for one in stops if isinstance(one, int) and not isinstance(one, bool)])
        return stops

    @cached_property
    def _piece_index(self) -> PieceIndex:
        return PieceIndex(self.model.vocab)

    @cached_property
    def _infill_format(self) -> InfillFormat:
        return InfillFormat(self.model.vocab)


def _sampling(sampling: SamplingParams | None, fields: SamplingKwargs) -> SamplingParams:
    unknown = fields.keys() - SamplingKwargs.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option{'s' * (len(unknown) > 1)}: {', '.join(sorted(unknown))}")
    if sampling is None:
        return SamplingParams(**fields)  # type: ignore[arg-type]
    if fields:
        raise TypeError(f"give sampling= or its fields, not both: {', '.join(fields)}")
    return sampling


def _parsed(completions: list[Completion], structure: Structure | None) -> list[Completion]:
    return completions if structure is None else [parse_completion(one, structure) for one in completions]


def _likelihood(completion: Completion) -> float:
    mean = completion.mean_logprob
    return -math.inf if mean is None else mean


def _is_list_of_prompts(prompt: object) -> bool:
    if isinstance(prompt, (str, bytes, np.ndarray)) or not isinstance(prompt, SequenceOf):
        return False
    return not len(prompt) or not isinstance(prompt[0], (int, np.integer))
