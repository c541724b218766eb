"""The options of every call, said once: they are the keyword arguments of the public methods.

None means "not given" for each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from llama_cffi._util import arguments as args
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.engine.sampling_params import SamplingKwargs
from llama_cffi.option_checks import CHECKS, OTHER_NAMES

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.embeddings import PoolingType
    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.engine.draft_source import Draft, Speculative
    from llama_cffi.engine.engine_options import DriverName
    from llama_cffi.engine.prompt_cache import PromptCache
    from llama_cffi.engine.request import Overflow, Stop
    from llama_cffi.engine.sampling_params import SamplingParams
    from llama_cffi.engine.telemetry import OnEvent
    from llama_cffi.prompt.infill import InfillOrder
    from llama_cffi.prompt.tools import Tool

ChatTemplate = str | os.PathLike[str]
"""The name of one of the model's chat templates, the Jinja text of another one, or its file."""


Norm = Literal["l1", "l2"]

OnIncomplete = Literal["raise", "return"]

WhenFull = Literal["raise", "wait"]

OnError = Literal["raise", "report"]
"""What becomes of an exception in a tool: it is raised, or reported to the model."""

OnUnsupported = Literal["error", "annotate"]
"""What becomes of a schema's keyword that cannot be kept to."""


class LlamaOptions(TypedDict, total=False):
    """What a :class:`~llama_cffi.Llama` takes beside its model."""

    n_ctx: int | None
    """Most tokens of one text, its prompt included; by default the smaller of 4096 and what the model was trained for,
    with 0 the latter."""
    n_cells: int | None
    """Cells of memory that all texts share, at least ``n_ctx``; each takes one for every token, and texts that begin
    alike share those of their beginning. Texts that find no room wait for others to end, and what is kept for reuse
    goes first. By default ``n_ctx`` for each of 4 texts (fewer with a smaller ``n_seq_max``), as far as that makes at
    most 16,384 and takes at most a quarter of the free memory. With ``kv_unified=False`` nothing is shared: by default
    ``n_ctx`` for each of ``n_seq_max`` texts."""
    n_batch: int | None
    """Most tokens of one decode; 2048 by default."""
    n_ubatch: int | None
    """Most tokens that the device computes at once; 512 by default."""
    n_seq_max: int | None
    """Texts that are generated at once; 8 by default."""
    n_threads: int | None
    """Threads of a decode of one token; by default as many as there are physical cores for this process."""
    n_threads_batch: int | None
    """Threads of a decode of more tokens; by default as ``n_threads``."""
    n_gpu_layers: int | None
    """Layers on a GPU, all by default where the library has one."""
    require_gpu: bool | None
    """Whether to raise :class:`UnsupportedError` instead of computing on the CPU; by default the CPU computes."""
    max_step_seconds: float | None
    """How long a decode may last, where that can be kept to by computing less of prompts in each. By default a
    quarter of a second, or twice what the texts that are generated take without a prompt where that is longer."""
    reproducible: bool | None
    """Whether what is computed together depends on the requests alone, and not on how long decodes take here, so that
    the same calls give the same texts to the last bit of rounding. It costs speed where several texts are generated,
    and drafts are as long as they may be. False by default."""
    overflow: Overflow | None
    """What happens when a text fills the context: ``"stop"`` (default) finishes it with ``length``, ``"error"`` raises
    :class:`ContextOverflowError`, ``"shift"`` forgets the older half and goes on."""
    driver: DriverName | None
    """Which thread computes: with ``"inline"`` (default) those that wait for text, with ``"thread"`` one of its own,
    which goes on while nobody reads."""
    max_waiting: int | None
    """Most requests that wait for their turn, beyond which :class:`QueueFullError` is raised; no limit by default."""
    max_waiting_tokens: int | None
    """Most tokens of the prompts that wait, likewise. A longer prompt may wait alone."""
    max_waiting_seconds: float | None
    """How long a request may wait for its turn, after which it ends with :class:`QueueTimeoutError`; no limit by
    default. A request that has begun does not wait any more."""
    host_bytes: int | None
    """Most bytes of the host's memory for beginnings of texts that had to leave the context's memory, which are copied
    back where that is faster than computing; by default an eighth of what is free, 4 GiB at most. 0 keeps none."""
    on_event: OnEvent | None
    """Receives a :class:`RequestEvent` when a request comes and when it ends, on the thread that computes; it must not
    wait, and what it raises is logged."""
    draft: Draft | None
    """Speculative decoding: ``"lookup"`` drafts from the prompt, a GGUF file or :class:`Model` with the same
    vocabulary computes drafts; :class:`PromptLookup` and :class:`DraftModel` have options. By default there is none."""
    model_options: ModelOptions | None
    """Everything else about loading; instead of ``n_gpu_layers`` and ``require_gpu``."""
    context_options: ContextOptions | None
    """Everything else about the context; the arguments here win over it. Its ``n_ctx`` is the cells of all texts, as
    ``n_cells`` here."""
    progress: ProgressCallback | None
    """Receives the part of the model that is loaded, 0.0 to 1.0; returning False cancels."""
    prompt_cache: PromptCache | None
    """Keeps what was computed in a folder; by default nothing is kept."""


class AsyncLlamaOptions(LlamaOptions, total=False):
    """What an :class:`~llama_cffi.AsyncLlama` takes beside its model."""

    when_full: WhenFull | None
    """What a call does where no more requests may wait: ``"raise"`` (default) raises :class:`QueueFullError`,
    ``"wait"`` waits for room."""
    max_compile_seconds: float | None
    """How long compiling a schema, a grammar or tools may take, after which :class:`SchemaError` is raised; no limit by
    default. It goes on on its thread, and is there for the next call."""


class HubOptions(LlamaOptions, total=False):
    """What :meth:`~llama_cffi.Llama.from_hub` takes beside the name of a model."""

    revision: str | None
    """Branch, tag or commit; by default the repository's main branch."""
    offline: bool | None
    """Whether to look in the cache alone; by default the hub is asked."""
    download_progress: ProgressCallback | None
    """Receives the part that is downloaded, 0.0 to 1.0; returning False cancels."""


class TextOptions(SamplingKwargs, total=False):
    """What every generating call takes: the fields of :class:`SamplingParams`, and these."""

    max_tokens: int | None
    """Most tokens to generate; by default the text goes on until the model ends it or the context is full. 0 computes
    the prompt and keeps it in memory."""
    stop: Stop | Sequence[Stop] | None
    """What ends the text and is not part of it: strings, tokens, compiled regular expressions; by default only the
    model's own end."""
    logprobs: int | None
    """Report each token's log-probability with this many alternatives, 0 for none; by default nothing is reported."""
    post_sampling_logprobs: bool | None
    """Whether ``logprobs`` are those of the distribution that the token was drawn from, after temperature, top-k,
    schema and all else; by default they are the model's own. llama.cpp's sampler draws then, so that a seed gives
    another text."""
    max_seconds: float | None
    """Seconds after which the text ends with what there is, reason ``deadline``; also within a long prompt. By default
    there is no limit."""
    priority: int | None
    """How urgent the text is, -100 to 100: of those that wait the lowest is computed first; 0 by default. One that has
    waited for long is computed before more urgent ones."""
    reuse: bool | None
    """Whether the text takes what others have computed of its prompt, and leaves what it computes for others
    (default)."""
    slot: int | None
    """The slot in whose memory the text is computed, if that one is idle; by default the one that spares most."""
    overflow: Overflow | None
    """What happens when the text fills the context; by default what the Llama was made with."""
    speculative: Speculative | None
    """Whether tokens are drafted ahead, and by what; by default what the Llama was made with."""
    sampling: SamplingParams | None
    """The sampling parameters as one value, instead of their fields; by default llama.cpp's own."""
    adapters: Mapping[LoraAdapter, float] | None
    """LoRA adapters and their scales; by default what :meth:`~llama_cffi.Llama.set_adapters` said."""
    on_incomplete: OnIncomplete | None
    """What a text with a schema, or a call, becomes that was cut before it was complete: :class:`IncompleteOutput` with
    ``"raise"`` (default), with ``"return"`` the result so far, whose ``incomplete`` is True and ``parsed`` None."""
    on_unsupported: OnUnsupported | None
    """What becomes of keywords, of a schema or of a tool's parameters, that no grammar keeps to: ``"error"`` (default)
    raises :class:`SchemaError` or :class:`ToolError`; ``"annotate"`` warns, generates without them, and raises
    :class:`OutputError` for a finished text that does not satisfy them. A :class:`JsonSchema` says it for itself."""


class SchemaOption(TypedDict, total=False):
    """What a text must look like. Apart from the others, so that type checkers know the result of a type given here."""

    schema: Any
    """What the text must look like: a type, a JSON Schema, choices, a regular expression or a grammar; see
    ``docs/structured-output.md``. The completion's ``parsed`` is an instance of it."""


class PromptOptions(TextOptions, total=False):
    """What a call takes that goes on from a prompt, beside ``schema``."""

    prompt_logprobs: int | None
    """Report the log-probabilities of the prompt's tokens with this many alternatives; the whole prompt is computed
    then. With ``max_tokens=0`` that is all."""

    echo: bool | None
    """Whether the result begins with the prompt; by default it does not."""
    heal: bool | None
    """Whether the model writes the end of the prompt again, where a longer token could stand there (by default it does
    not); see :mod:`~llama_cffi.grammar.healing`. The result still is what follows the prompt."""
    suffix: str | None
    """What comes after the text: the prompt is a fill-in-the-middle one then, as :meth:`~llama_cffi.Llama.infill` makes
    it."""


class GenerateOptions(PromptOptions, SchemaOption, total=False):
    """What a call takes that goes on from a prompt."""


class InfillLayout(TypedDict, total=False):
    """What stands around a gap beside the texts before and behind it."""

    files: Mapping[str, str] | None
    """Other files that belong to it, text by name; by default none."""
    name: str | None
    """Name of the file to fill in; by default none is given."""
    repository: str | None
    """Name of its repository; by default none is given."""
    order: InfillOrder | None
    """What the model was trained with: ``"psm"``, prefix, suffix, middle (default), or ``"spm"``."""


class GapOptions(TextOptions, InfillLayout, total=False):
    """What a call takes that fills a gap, beside ``schema``."""


class InfillOptions(GapOptions, SchemaOption, total=False):
    """What a call takes that fills a gap."""


class TemplateOptions(TypedDict, total=False):
    """What a chat template is given beside the messages."""

    tools: Sequence[Tool | Callable[..., Any] | Mapping[str, Any]] | None
    """What the model may call: typed functions, :class:`Tool` values, or definitions as in OpenAI's API; by default
    nothing."""
    chat_template: ChatTemplate | None
    """Name of one of the model's templates, or the Jinja text or file of another one; by default the model's own."""
    chat_template_kwargs: Mapping[str, Any] | None
    """The template's own variables, such as ``{"enable_thinking": False}``."""
    documents: Sequence[Mapping[str, Any]] | None
    """Texts that the reply is to be about, for templates that take them; by default none."""


class RenderOptions(TemplateOptions, total=False):
    """What a call takes that shows a conversation as the template writes it."""

    prefix: str | None
    """How the reply begins; shown among the tokens only."""
    add_generation_prompt: bool | None
    """Whether it ends where a reply begins (default)."""


class ReplyOptions(TextOptions, TemplateOptions, total=False):
    """What every conversing call takes beside its messages and ``schema``."""

    prefix: str | None
    """How the reply begins, by default as the model likes; the result does not repeat it."""
    tool_choice: str | Mapping[str, Any] | None
    """``"auto"`` (default), ``"none"``, ``"required"``, or the one tool to call: by its name, or as OpenAI's API has
    it."""
    parallel_tool_calls: bool | None
    """Whether a reply may hold several calls (default)."""
    reasoning_budget: int | None
    """Most tokens of reasoning; then it is ended. 0 is none at all; by default there is no limit."""
    reply_format: str | None
    """Name of the format of replies; by default it is found in the template."""


class ChatOptions(ReplyOptions, SchemaOption, total=False):
    """What every conversing call takes beside its messages."""


class RunOptions(ReplyOptions, total=False):
    """What the calls take that run tools, beside ``schema``."""

    max_rounds: int | None
    """How often calls are answered, at most; 10 by default."""
    on_error: OnError | None
    """Whether an exception of a tool is raised (default) or reported to the model."""


class ToolOptions(RunOptions, SchemaOption, total=False):
    """What the calls take that run tools."""


class SimilarityOptions(TypedDict, total=False):
    """What a call takes that compares texts by their vectors."""

    truncate: bool | None
    """Whether a text that is too long loses its end; by default :class:`TextTooLongError` is raised."""
    pooling: PoolingType | None
    """``"mean"``, ``"cls"``, ``"last"``, ``"none"`` for a vector of each token; by default what the model was trained
    with (mean where its file does not say)."""
    prefix: str | None
    """What goes before every text, by default nothing. Models trained with one prefix for queries and one for documents
    want it here, because GGUF files do not tell it."""


class EmbedOptions(SimilarityOptions, total=False):
    """What a call takes that makes vectors of texts."""

    normalize: bool | Norm | None
    """What makes the length of every vector 1: ``"l2"`` (True, default), ``"l1"``, or nothing (False)."""


class RerankOptions(TypedDict, total=False):
    """What a call takes that orders documents."""

    top_n: int | None
    """How many of the best are wanted; all by default."""
    truncate: bool | None
    """Whether a document that is too long with its query loses its end; by default :class:`TextTooLongError` is
    raised."""


class ClassifyOptions(TypedDict, total=False):
    """What a call takes that labels texts."""

    truncate: bool | None
    """Whether a text that is too long loses its end; by default :class:`TextTooLongError` is raised."""


class ScoreOptions(TypedDict, total=False):
    """What a call takes that scores continuations."""

    adapters: Mapping[LoraAdapter, float] | None
    """LoRA adapters and their scales; by default what :meth:`~llama_cffi.Llama.set_adapters` said."""


class PerplexityOptions(ScoreOptions, total=False):
    """What a call takes that measures how well a text is predicted."""

    n_ctx: int | None
    """Tokens of a chunk; 512 by default, less for a short text, context or training length."""
    stride: int | None
    """Tokens by which each chunk begins after the one before, of which only the last ``stride`` tokens are scored: more
    context for each, and more to compute. By default chunks do not overlap, and the second half of each is scored."""


def check_options(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, checked as far as no model is needed.

    TypeError for a name that the TypedDict ``kind`` does not have; TypeError and ``ValueError`` that name the option
    for a value that it cannot have.
    """
    args.check_names("options", options)
    unknown = options.keys() - kind.__annotations__.keys()
    if unknown:
        from difflib import get_close_matches

        renamed = [OTHER_NAMES[one] for one in sorted(unknown) if one in OTHER_NAMES]
        near = renamed or [
            name for one in sorted(unknown) for name in get_close_matches(one, kind.__annotations__, n=1)
        ]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TypeError(f"unknown option{'s' * (len(unknown) > 1)}: {', '.join(sorted(unknown))}{hint}")
    given = {name: value for name, value in options.items() if value is not None}
    return {name: CHECKS[name](name, value) if name in CHECKS else value for name, value in given.items()}


__all__ = [
    "AsyncLlamaOptions", "ChatOptions", "ChatTemplate", "ClassifyOptions", "EmbedOptions", "GapOptions",
    "GenerateOptions", "HubOptions", "InfillLayout", "InfillOptions", "LlamaOptions", "Norm", "OnError",
    "OnIncomplete", "OnUnsupported", "PerplexityOptions", "PromptOptions", "RenderOptions", "ReplyOptions",
    "RerankOptions", "RunOptions", "SchemaOption", "ScoreOptions", "SimilarityOptions", "TemplateOptions",
    "TextOptions", "ToolOptions", "WhenFull", "check_options",
]  # fmt: skip
