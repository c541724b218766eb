"""Prepares prompts to continue."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_cffi._util.seed import MAX_SEED, draw_seed
from llama_cffi._util.shown import shown
from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.engine.author_sampling import with_author
from llama_cffi.engine.draft_source import request_source
from llama_cffi.engine.request import Overflow, Request, Stop
from llama_cffi.engine.sampling_params import SamplingKwargs, SamplingParams
from llama_cffi.errors import PromptError, SamplerError
from llama_cffi.grammar.healing import Healing, tokens_to_heal
from llama_cffi.grammar.logit_bias import token_bias
from llama_cffi.prepare.prepared import Defaults, Prepared, placed
from llama_cffi.reply.structured_reader import StructuredReader
from llama_cffi.spec import MixedPrompt, any_prompt

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.structure import Structure
    from llama_cffi.options import TextOptions
    from llama_cffi.prepare.model_formats import ModelFormats
    from llama_cffi.reply.completion import Chunk, Completion
    from llama_cffi.spec import GenerateSpec, GivenPrompt, InfillSpec


MAX_COMPLETIONS = 4096
"""Most completions of one call: all their requests are made before the first is computed."""


@dataclass(frozen=True)
class PreparedTexts:
    """Requests that answer one call together, and how their completions become its answer."""

    parts: tuple[Prepared[Chunk], ...]
    keep: int
    """The number of requested completions."""
    many: bool
    """Whether the answer is a list."""
    ranked: bool
    """Whether the most likely completions are requested, the best first."""
    logprobs: bool
    """Whether the completions show the log-probabilities that they were ranked by."""

    def answer(self, completions: list[Completion]) -> Completion | list[Completion]:
        """Return the answer; raises the errors of :meth:`Reader.finish`."""
        if self.ranked:
            completions = sorted(completions, key=_likelihood, reverse=True)
        completions = completions[: self.keep]
        if not self.logprobs:
            completions = [replace(one, logprobs=None) for one in completions]
        reader = self.parts[0].reader if self.parts else None
        if reader is not None:
            completions = [reader.finish(one) for one in completions]
        return completions if self.many else completions[0]


def prepare_texts(spec: GenerateSpec, formats: ModelFormats, defaults: Defaults) -> PreparedTexts:
    """Prepare the texts of a call; raises the errors of :meth:`Llama.generate` before computing."""
    if spec.many:
        if spec.n is not None or spec.best_of is not None:
            raise ValueError("n and best_of are for one prompt, not for a list")
        parts = _prepare_each(spec, formats, defaults)
        return PreparedTexts(parts, len(parts), many=True, ranked=False, logprobs=True)
    (one,) = _prepare_each(spec, formats, defaults)
    if spec.n is None and spec.best_of is None:
        return PreparedTexts((one,), 1, many=False, ranked=False, logprobs=True)
    keep = 1 if spec.n is None else spec.n
    count = keep if spec.best_of is None else spec.best_of
    if not 1 <= keep <= count <= MAX_COMPLETIONS:
        raise ValueError(
            f"n must be at least 1 and at most best_of, which is at most {MAX_COMPLETIONS}, "
            f"got n={shown(spec.n)}, best_of={shown(spec.best_of)}"
        )
    ranked = spec.best_of is not None
    return PreparedTexts(
        tuple(replace(one, request=request) for request in _with_seeds(one.request, count, ranked=ranked)),
        keep,
        many=spec.n is not None,
        ranked=ranked,
        logprobs=one.request.logprobs is not None,
    )


def prepare_text(spec: GenerateSpec, formats: ModelFormats, defaults: Defaults) -> Prepared[Chunk]:
    """Prepare the one text of a stream."""
    if spec.many:
        raise TypeError("the prompt of a stream must be one text or its tokens, not a list of prompts")
    return _prepare_each(spec, formats, defaults)[0]


def prepare_infill(spec: InfillSpec, formats: ModelFormats, defaults: Defaults) -> Prepared[Chunk]:
    """Prepare what belongs into a gap; :class:`UnsupportedError` for a model without the tokens for it."""
    structure = compile_structure(spec.options, formats.vocab)
    request = make_request(Prompt(infill_tokens(spec, formats)), spec.options, formats, defaults, structure=structure)
    return Prepared(request, _reader(structure, spec.options, formats))


def infill_tokens(spec: InfillSpec, formats: ModelFormats) -> list[int]:
    """Return the prompt of a gap."""
    options = spec.options
    return formats.infill.tokens(
        spec.prefix,
        spec.suffix,
        files=options.get("files"),
        name=options.get("name") or "",
        repository=options.get("repository") or "",
        order=options.get("order") or "psm",
    )


def compile_structure(options: TextOptions, vocab: Vocab, *, now: bool = True) -> Structure | None:
    """Compile the schema among the options; raises :class:`SchemaError`. ``now`` is as in :func:`compile_schema`."""
    schema = options.get("schema")
    if schema is None:
        return None
    # llguidance and pydantic take 0.1 s to import, which plain text need not pay.
    from llama_cffi.grammar.schema import compile_schema

    return compile_schema(schema, vocab, now=now, on_unsupported=options.get("on_unsupported") or "error")


def prepare_more(
    prompts: Iterable[Any], spec: GenerateSpec, formats: ModelFormats, defaults: Defaults
) -> Iterator[Prepared[Chunk]]:
    """Prepare texts one by one as they come, each as the spec has it. A schema is compiled once, by this call."""
    if isinstance(prompts, (str, bytes, Prompt)) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts must be a list or another iterable of prompts, not {type(prompts).__name__}")
    structure = _text_structure(spec, formats)
    return (
        _prepared(any_prompt(prompt), spec, formats, defaults, structure, f"prompt {i}")
        for i, prompt in enumerate(prompts)
    )


def _prepare_each(spec: GenerateSpec, formats: ModelFormats, defaults: Defaults) -> tuple[Prepared[Chunk], ...]:
    structure = _text_structure(spec, formats)
    places = (f"prompt {i} of the list" if spec.many else "" for i in range(len(spec.prompts)))
    return tuple(
        _prepared(prompt, spec, formats, defaults, structure, place)
        for prompt, place in zip(spec.prompts, places, strict=True)
    )


def _text_structure(spec: GenerateSpec, formats: ModelFormats) -> Structure | None:
    structure = compile_structure(spec.options, formats.vocab)
    if structure is not None:
        for name in ("heal", "echo"):
            if spec.options.get(name):
                raise ValueError(f"{name}= and schema= cannot be used together")
    return structure


def _prepared(
    prompt: GivenPrompt,
    spec: GenerateSpec,
    formats: ModelFormats,
    defaults: Defaults,
    structure: Structure | None,
    place: str,
) -> Prepared[Chunk]:
    with placed(place):
        request = _text_request(prompt, spec, formats, defaults, structure)
    return Prepared(request, _reader(structure, spec.options, formats), place)


def _reader(structure: Structure | None, options: TextOptions, formats: ModelFormats) -> StructuredReader | None:
    if structure is None:
        return None
    return StructuredReader(structure, formats.vocab, keep_incomplete=options.get("on_incomplete") == "return")


def _text_request(
    given: GivenPrompt,
    spec: GenerateSpec,
    formats: ModelFormats,
    defaults: Defaults,
    structure: Structure | None,
) -> Request:
    options = spec.options
    echo, heal = options.get("echo"), options.get("heal")
    suffix = options.get("suffix")
    if suffix is not None:
        if not isinstance(given, str):
            raise TypeError("a prompt with suffix= must be a text, not tokens or media")
        if echo or heal:
            raise ValueError("echo= and heal= cannot be used with fill-in-the-middle")
        prompt = Prompt(formats.infill.tokens(given, suffix))
    else:
        prompt = as_prompt(given, formats)
    text = ""
    if echo:
        text = _echoed(given, prompt, formats.vocab)
    if not heal:
        return make_request(prompt, options, formats, defaults, begun=text, structure=structure)
    if options.get("grammar") is not None or getattr(options.get("sampling"), "grammar", None) is not None:
        raise SamplerError("heal= and a grammar cannot be used together")
    # The text before an image is as it is: only what follows the last one is an end that may be a cut.
    n_healed, healed = tokens_to_heal(prompt[prompt.media[-1].end if prompt.media else 0 :], formats.pieces)
    request = make_request(prompt.first(len(prompt) - n_healed), options, formats, defaults, begun=text)
    return replace(request, healed=healed, constraint=Healing(formats.pieces, healed) if healed else None)


def _echoed(given: GivenPrompt, prompt: Prompt, vocab: Vocab) -> str:
    """A prompt as text, media left out."""
    if isinstance(given, (str, MixedPrompt)):
        return given if isinstance(given, str) else given.text
    return vocab.detokenize(prompt.tokens, unparse_special=False).decode("utf-8", "replace")


def as_prompt(given: GivenPrompt, formats: ModelFormats) -> Prompt:
    """Return a prompt from text, tokens or parts.

    Raises :class:`PromptError` without any, :class:`TokenError` outside the vocabulary, and the errors of
    :meth:`MediaFormat.parts`.
    """
    vocab = formats.vocab
    if isinstance(given, MixedPrompt):
        return _mixed(given, formats)
    if isinstance(given, Prompt):
        vocab.check_tokens(given.tokens)
        prompt = given
    else:
        tokens = vocab.tokenize(given) if isinstance(given, str) else vocab.check_tokens(given)
        prompt = Prompt(tokens.tolist())
    if not prompt:
        raise PromptError("the prompt has no tokens, and this model adds no BOS")
    return prompt


def _mixed(given: MixedPrompt, formats: ModelFormats) -> Prompt:
    """Texts are tokenized one by one, as libmtmd does."""
    vocab = formats.vocab
    cells: list[int | Media] = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
    for i, part in enumerate(given.parts):
        if isinstance(part, str):
            cells += vocab.tokenize(part, add_special=False).tolist()
        elif isinstance(part, int):
            cells += vocab.check_tokens([part]).tolist()
        else:
            cells += formats.media.parts(part, f"prompt[{i}]", before=cells)
    if vocab.add_eos and vocab.eos is not None:
        cells.append(vocab.eos)
    return Prompt(cells)


def make_request(
    prompt: Prompt,
    options: TextOptions,
    formats: ModelFormats,
    defaults: Defaults,
    *,
    begun: str = "",
    structure: Structure | None = None,
    **fields: Any,
) -> Request:
    """Return the request for a prompt, with a text that is ``begun`` already.

    ``fields`` are those of :class:`Request` that the options do not decide.
    """
    given: dict[str, Any] = dict(options)
    return Request(
        prompt=prompt,
        sampling=_sampling(given, formats, defaults),
        max_tokens=given.get("max_tokens"),
        max_seconds=given.get("max_seconds"),
        stop=_stops(given.get("stop", ()), formats.vocab),
        echo=begun,
        logprobs=given.get("logprobs"),
        post_sampling_logprobs=bool(given.get("post_sampling_logprobs")),
        prompt_logprobs=given.get("prompt_logprobs"),
        overflow=given.get("overflow", _usual_overflow(prompt, defaults)),
        speculative=request_source(given.get("speculative"), defaults.drafts),
        conditioning=defaults.conditioning.with_adapters(given.get("adapters"), formats.model),
        priority=given.get("priority", 0),
        reuse=given.get("reuse", True),
        slot=given.get("slot"),
        **{"constraint": None if structure is None else structure.constraint, **fields},
    )


def _usual_overflow(prompt: Prompt, defaults: Defaults) -> Overflow:
    """The policy of a text that names none: the positions of media cannot be shifted."""
    return "stop" if prompt.media and defaults.overflow == "shift" else defaults.overflow


def _sampling(given: dict[str, Any], formats: ModelFormats, defaults: Defaults) -> SamplingParams:
    fields = {name: given[name] for name in SamplingKwargs.__annotations__ if name in given}
    if "logit_bias" in fields:
        fields["logit_bias"] = token_bias(fields["logit_bias"], formats.vocab, lambda: formats.pieces)
    sampling = given.get("sampling")
    if sampling is None:
        return SamplingParams(**with_author(fields, defaults.sampling))
    if fields:
        raise TypeError(f"give sampling= or its fields, not both: {', '.join(fields)}")
    if not isinstance(sampling, SamplingParams):
        raise TypeError(f"sampling must be SamplingParams, not {type(sampling).__name__}")
    return sampling


def _stops(stop: Stop | Sequence[Stop], vocab: Vocab) -> tuple[Stop, ...]:
    if isinstance(stop, (str, int, re.Pattern)):
        stops: tuple[Stop, ...] = (stop,)
    elif isinstance(stop, Sequence) and not isinstance(stop, bytes):
        stops = tuple(stop)
    else:
        raise TypeError(f"stop must be strings, tokens or compiled patterns, got {shown(stop)}")
    vocab.check_tokens([one for one in stops if isinstance(one, int) and not isinstance(one, bool)])
    return stops


def _with_seeds(request: Request, count: int, *, ranked: bool) -> list[Request]:
    sampling = request.sampling
    seed = sampling.seed if sampling.seed is not None else draw_seed()
    logprobs = 0 if request.logprobs is None and ranked else request.logprobs
    return [
        replace(request, logprobs=logprobs, sampling=replace(sampling, seed=(seed + i) % (MAX_SEED + 1)))
        for i in range(count)
    ]


def _likelihood(completion: Completion) -> float:
    mean = completion.mean_logprob
    return -math.inf if mean is None else mean


__all__ = [
    "PreparedTexts",
    "as_prompt",
    "compile_structure",
    "infill_tokens",
    "make_request",
    "prepare_infill",
    "prepare_more",
    "prepare_text",
    "prepare_texts",
]
