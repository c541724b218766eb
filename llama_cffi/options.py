"""The options of every call: the keyword arguments of the public methods, each declared once.

For every option, None means "not given".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal

from llama_cffi._util.typed_dict import TypedDict
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.model_options import GpuLayers, ModelOptions
from llama_cffi.engine.sampling_params import SamplingKwargs
from llama_cffi.option_checks import check_options
from llama_cffi.reply.completion import P

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.embeddings import PoolingType
    from llama_cffi.core.media.audio import Audio
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.engine.draft_source import Draft, Speculative
    from llama_cffi.engine.engine_options import DriverName
    from llama_cffi.engine.prompt_cache import PromptCache
    from llama_cffi.engine.request import Overflow, Stop
    from llama_cffi.engine.sampling_params import SamplingParams
    from llama_cffi.engine.telemetry import OnEvent
    from llama_cffi.grammar.values import Schema
    from llama_cffi.prompt.infill import InfillOrder
    from llama_cffi.prompt.tools import Tool

ChatTemplate = str | os.PathLike[str]
"""The name of one of the model's chat templates, the Jinja text of another one, or its file."""

Norm = Literal["l1", "l2"]
OnIncomplete = Literal["raise", "return"]
WhenFull = Literal["raise", "wait"]

OnError = Literal["raise", "report"]
"""What happens with an exception of a tool: it is raised, or reported to the model."""

OnUnsupported = Literal["error", "annotate"]
"""What happens with a keyword of a schema that cannot be enforced: an error, or a warning and a final check."""


class LlamaOptions(TypedDict, total=False):
    """The options of :class:`~llama_cffi.Llama`."""

    n_ctx: int | Literal["auto"] | None
    """The most tokens of one text, its prompt included; by default the smaller of 4096 and the context length that the
    model was trained with; 0 for that context length; ``"auto"`` for as much of it as fits the memory."""
    n_cells: int | None
    """Memory cells that all texts share, at least ``n_ctx``. Each token of a text takes one cell, and texts with the
    same beginning share the cells of that beginning. When there is no room, texts that are kept for reuse are evicted
    first; then new texts wait until others end. By default ``n_ctx`` for each of 4 texts (fewer with a smaller
    ``n_seq_max``), limited to 16,384 cells and a quarter of the free memory. With ``kv_unified=False`` no cells are
    shared, and the default is ``n_ctx`` for each of ``n_seq_max`` texts."""
    n_batch: int | None
    """The most tokens of one decode; 2048 by default."""
    n_ubatch: int | None
    """The most tokens that the device computes at once; 512 by default."""
    n_seq_max: int | None
    """The most texts that are generated at once; 8 by default."""
    n_threads: int | None
    """Threads of a decode of one token; by default the number of physical cores available to this process. ``threads``
    tells their number and the reason for it."""
    n_threads_batch: int | None
    """Threads of a decode of several tokens; by default ``n_threads``."""
    n_gpu_layers: GpuLayers | None
    """The number of layers on GPUs. ``"auto"`` (default) puts as many there as fit beside the context, and fewer when
    an allocation fails; ``"all"`` puts all there or fails. ``model.placement`` tells what was done."""
    max_device_memory: int | Mapping[str, int] | None
    """The most bytes that ``n_gpu_layers="auto"`` plans for each GPU, or for each one by its name; by default what is
    free, except a margin."""
    require_gpu: bool | None
    """Whether to raise :class:`UnsupportedError` instead of computing on the CPU; by default the CPU computes."""
    max_step_seconds: float | None
    """The most seconds of a decode; the engine keeps to it by computing fewer prompt tokens in each decode. By default
    a quarter of a second, or twice the duration of a decode without prompt tokens if that is longer."""
    reproducible: bool | None
    """Whether the composition of batches depends on the requests alone, and not on measured durations, so that the same
    calls give identical texts, rounding included. It costs speed when several texts are generated, and drafts always
    have their maximum length. With ``driver="thread"`` or ``isolate=True``, and with calls of several threads, batches
    also depend on when requests arrive. False by default."""
    overflow: Overflow | None
    """What happens when a text fills the context: ``"stop"`` (default) ends it with the finish reason ``length``,
    ``"error"`` raises :class:`ContextOverflowError`, ``"shift"`` removes the older half from memory and continues."""
    driver: DriverName | None
    """The thread that computes: with ``"inline"`` (default) the threads that wait for text, with ``"thread"`` a
    separate thread, which also computes while no caller waits."""
    max_waiting: int | None
    """The most waiting requests, beyond which :class:`QueueFullError` is raised; no limit by default."""
    max_waiting_tokens: int | None
    """The most tokens of all waiting prompts, beyond which :class:`QueueFullError` is raised; no limit by default. A
    prompt longer than that may wait alone."""
    max_waiting_seconds: float | None
    """The most seconds that a request waits until its computation begins, after which it ends with
    :class:`QueueTimeoutError`; no limit by default."""
    host_bytes: int | None
    """The most bytes of host memory for states of texts that were evicted from the context's memory. A state is copied
    back when that is faster than computing it again. By default an eighth of the free memory, at most 4 GiB; 0 keeps
    none."""
    on_event: OnEvent | None
    """Receives a :class:`RequestEvent` when a request arrives and when it ends, on the thread that computes. It must
    not block; an exception in it is logged."""
    draft: Draft | None
    """The draft source of speculative decoding: ``"lookup"`` for drafts from the prompt, ``"mtp"`` for the layers of
    the model that predict further tokens, or a GGUF file or :class:`Model`: a smaller model with the same vocabulary,
    or an EAGLE-3 model for this one. :class:`PromptLookup`, :class:`DraftHeads` and :class:`DraftModel` have options.
    By default there are no drafts."""
    model_sampling: bool | None
    """Whether the sampling parameters that the author of the model recommends in its file are the defaults of calls
    (default); otherwise the defaults are llama.cpp's. ``default_sampling`` shows them."""
    mmproj: str | os.PathLike[str] | Projector | None
    """The projector file with which the model takes images or sound, or an open :class:`Projector`; ``"auto"`` takes
    the one beside the model's file. By default prompts are text only."""
    image_min_tokens: int | None
    """The fewest tokens of an image, for models with images of any size; by default what the projector says."""
    image_max_tokens: int | None
    """The most tokens of an image, for models with images of any size; by default what the projector says."""
    media_bytes: int | None
    """The most bytes of memory for the embeddings of images and sounds, which spare encoding these again; 256 MiB by
    default, 0 for none."""
    rpc: Sequence[str] | None
    """RPC servers, as ``"host:port"``, whose devices count as GPUs of this machine; none by default. See
    ``docs/gpu.md``."""
    isolate: bool | None
    """Whether the model is in a process of its own, so that a crash raises :class:`EngineCrashed` and the next call
    starts another process. False by default, True with ``rpc``. With ``rpc`` and ``isolate=False``, any number of
    models, contexts and threads of this process may use a server; but one that ends or is restarted while a model is
    open ends this process, the next computation waits without a limit for one that hangs, and the devices of a server
    stay devices of this process, also for models that are opened later. See ``docs/processes.md``."""
    replay: bool | None
    """Whether a request is repeated once after a crash if nothing of it was given to the caller; False by default,
    and True needs ``isolate=True``."""
    model_options: ModelOptions | None
    """All options of loading the model, instead of ``n_gpu_layers``, ``require_gpu`` and ``max_device_memory``."""
    context_options: ContextOptions | None
    """All other options of the context; the options here override it. Its ``n_ctx`` is the number of cells of all
    texts, like ``n_cells`` here."""
    progress: ProgressCallback | None
    """Receives the loaded part of the model, 0.0 to 1.0; returning False cancels."""
    prompt_cache: PromptCache | None
    """Stores computed prompts in a folder; by default nothing is stored."""


class AsyncLlamaOptions(LlamaOptions, total=False):
    """The options of :class:`~llama_cffi.AsyncLlama`."""

    when_full: WhenFull | None
    """What a call does when the queue is full: ``"raise"`` (default) raises :class:`QueueFullError`, ``"wait"`` waits
    for room."""
    max_compile_seconds: float | None
    """The most seconds of compiling a schema, a grammar or tools, beyond which :class:`SchemaError` is raised; no limit
    by default. The compilation continues on its thread, and the next call uses its result."""


class HubOptions(LlamaOptions, total=False):
    """The options of :meth:`~llama_cffi.Llama.from_hub`."""

    revision: str | None
    """Branch, tag or commit; by default the repository's main branch."""
    offline: bool | None
    """Whether to use the cache only; by default the hub is queried."""
    download_progress: ProgressCallback | None
    """Receives the downloaded part, 0.0 to 1.0; returning False cancels."""


class TextOptions(SamplingKwargs, total=False):
    """The options of every generating call: the fields of :class:`SamplingParams`, and these."""

    max_tokens: int | None
    """The most tokens to generate; by default the text continues until the model ends it or the context is full. 0
    computes the prompt and keeps it in memory."""
    stop: Stop | Sequence[Stop] | None
    """Stop conditions, which are not part of the text: strings, tokens, compiled regular expressions. By default only
    the model ends the text."""
    logprobs: int | None
    """Report each token's log-probability with this many alternatives, 0 for none; by default nothing is reported."""
    post_sampling_logprobs: bool | None
    """Whether ``logprobs`` are those of the distribution that the token was drawn from, after temperature, top-k,
    schema and all other samplers; by default they are the model's own. With True, llama.cpp's sampler draws the tokens,
    so a seed gives another text than without it."""
    max_seconds: float | None
    """Seconds after which the text ends as it is, with the finish reason ``deadline``, also during a long prompt. By
    default there is no limit."""
    priority: int | None
    """The urgency of the text, -100 to 100: of the waiting texts, that with the lowest number is computed first; 0 by
    default. A text that has waited long is computed before more urgent ones."""
    reuse: bool | None
    """Whether the text reuses what others have computed of its prompt, and keeps what it computes for others
    (default)."""
    slot: int | None
    """The slot that computes the text, if it is idle; by default the slot with the most reusable tokens."""
    overflow: Overflow | None
    """What happens when the text fills the context; by default as set for the ``Llama``."""
    speculative: Speculative | None
    """Whether tokens are drafted, and by which draft source; by default as set for the ``Llama``."""
    sampling: SamplingParams | None
    """The sampling parameters as one value, instead of their fields; by default llama.cpp's own."""
    adapters: Mapping[LoraAdapter, float] | None
    """LoRA adapters and their scales; by default those of :meth:`~llama_cffi.Llama.set_adapters`."""
    on_incomplete: OnIncomplete | None
    """What happens when a text with a schema, or a tool call, was cut before it was complete: ``"raise"`` (default)
    raises :class:`IncompleteOutput`; ``"return"`` returns the result so far, with ``incomplete`` True and ``parsed``
    None."""
    on_unsupported: OnUnsupported | None
    """What happens with keywords of a schema or of a tool's parameters that no grammar can enforce: ``"error"``
    (default) raises :class:`SchemaError` or :class:`ToolError`; ``"annotate"`` warns, generates without them, and
    raises :class:`OutputError` for a finished text that does not satisfy them. A :class:`JsonSchema` has its own
    setting."""


class SchemaOption(TypedDict, Generic[P], total=False):
    """The option ``schema``. Its type parameter is what type checkers infer for ``parsed`` of the result."""

    schema: Schema[P] | None
    """The required form of the text: a type, a JSON Schema, choices, a regular expression or a grammar; see
    ``docs/structured-output.md``. The ``parsed`` field of the result is an instance of it."""


class GenerateOptions(TextOptions, SchemaOption[P], Generic[P], total=False):
    """The options of calls that continue a prompt."""

    prompt_logprobs: int | None
    """Report the log-probabilities of the prompt's tokens with this many alternatives. The whole prompt is then
    computed, without reuse; with ``max_tokens=0`` nothing is generated."""

    echo: bool | None
    """Whether the result begins with the prompt; by default it does not."""
    heal: bool | None
    """Whether the model generates the last tokens of the prompt again if longer tokens could replace them (False by
    default); see :mod:`~llama_cffi.grammar.healing`. The result is still the text after the prompt."""
    suffix: str | None
    """The text after the gap: the call then fills in the middle, like :meth:`~llama_cffi.Llama.infill`."""


class InfillLayout(TypedDict, total=False):
    """The context of a gap, besides the texts before and after it."""

    files: Mapping[str, str] | None
    """Other files of the repository, a mapping of names to texts; by default none."""
    name: str | None
    """Name of the file to fill in; by default none is given."""
    repository: str | None
    """Name of the repository; by default none is given."""
    order: InfillOrder | None
    """The order that the model was trained with: ``"psm"``, prefix, suffix, middle (default), or ``"spm"``."""


class InfillOptions(TextOptions, InfillLayout, SchemaOption[P], Generic[P], total=False):
    """The options of calls that fill in the middle."""


class TemplateOptions(TypedDict, total=False):
    """The inputs of a chat template, besides the messages."""

    tools: Sequence[Tool | Callable[..., Any] | Mapping[str, Any]] | None
    """The tools that the model may call: typed functions, :class:`Tool` values, or definitions in OpenAI's format; by
    default none."""
    chat_template: ChatTemplate | None
    """Name of one of the model's templates, or the Jinja text or file of another one; by default the model's own."""
    chat_template_kwargs: Mapping[str, Any] | None
    """Further variables of the template, such as ``{"enable_thinking": False}``."""
    documents: Sequence[Mapping[str, Any]] | None
    """Documents that the reply may use, for templates that support them; by default none."""


class RenderOptions(TemplateOptions, total=False):
    """The options of calls that render or tokenize a conversation."""

    prefix: str | None
    """The beginning of the reply; it is part of the tokens only, not of the rendered text."""
    add_generation_prompt: bool | None
    """Whether the prompt ends where a reply begins; True by default."""


class ChatOptions(TextOptions, TemplateOptions, SchemaOption[P], Generic[P], total=False):
    """The options of conversations."""

    prefix: str | None
    """The beginning of the reply, which the result does not repeat; by default there is none."""
    tool_choice: str | Mapping[str, Any] | None
    """``"auto"`` (default), ``"none"``, ``"required"``, or the one tool to call: its name, or an object in OpenAI's
    format."""
    parallel_tool_calls: bool | None
    """Whether a reply may have several tool calls; True by default."""
    reasoning_budget: int | None
    """The most tokens of reasoning, after which the reasoning is ended. 0 for no reasoning; by default there is no
    limit."""
    reply_format: str | None
    """Name of the reply format; by default it is detected from the template."""


class ToolOptions(ChatOptions[P], Generic[P], total=False):
    """The options of calls that run tools."""

    max_rounds: int | None
    """The most rounds of tool calls that are answered; 10 by default."""
    on_error: OnError | None
    """Whether an exception of a tool is raised (default) or reported to the model."""


class SimilarityOptions(TypedDict, total=False):
    """The options of calls that compare texts by their embeddings."""

    truncate: bool | None
    """Whether a text that is too long loses its end; by default :class:`TextTooLongError` is raised."""
    pooling: PoolingType | None
    """``"mean"``, ``"cls"``, ``"last"``, or ``"none"`` for a vector of each token; by default the pooling that the
    model was trained with (mean if its file does not specify it)."""
    prefix: str | None
    """A prefix of every text, by default none. Models that were trained with one prefix for queries and one for
    documents need it, because GGUF files do not contain it."""


class EmbedOptions(SimilarityOptions, total=False):
    """The options of calls that compute embeddings."""

    normalize: bool | Norm | None
    """The norm by which every vector is divided: ``"l2"`` (True, default), ``"l1"``, or none (False)."""


class RerankOptions(TypedDict, total=False):
    """The options of reranking."""

    top_n: int | None
    """The number of best documents to return; all by default."""
    truncate: bool | None
    """Whether a document that is too long with its query loses its end; by default :class:`TextTooLongError` is
    raised."""


class ClassifyOptions(TypedDict, total=False):
    """The options of classification."""

    truncate: bool | None
    """Whether a text that is too long loses its end; by default :class:`TextTooLongError` is raised."""


class ScoreOptions(TypedDict, total=False):
    """The options of scoring continuations."""

    adapters: Mapping[LoraAdapter, float] | None
    """LoRA adapters and their scales; by default those of :meth:`~llama_cffi.Llama.set_adapters`."""


class PerplexityOptions(ScoreOptions, total=False):
    """The options of computing a perplexity."""

    n_ctx: int | None
    """Tokens of a chunk; 512 by default, fewer for a shorter text, context or training context."""
    stride: int | None
    """The distance in tokens between the beginnings of two chunks; only the last ``stride`` tokens of a chunk are
    scored. A smaller stride gives each token more context and takes longer. By default chunks do not overlap, and the
    second half of each is scored."""


class SpeechOptions(TypedDict, total=False):
    """The options of reading a text aloud; the sampling parameters are those of :class:`SamplingParams`."""

    voice: Audio | str | os.PathLike[str] | None
    """A sound, or its file, whose voice is imitated: some seconds of one person; by default the model's own voice."""
    language: str | None
    """The language of the text (``"de"``, ``"german"``), for models that speak several; English by default."""
    temperature: float | None
    """0 takes the likeliest; what noise there is in the sound of some models depends on the seed alone."""
    top_k: int | None
    """For the model, and for details of the sound."""
    top_p: float | None
    """For the model, and for details of the sound."""
    min_p: float | None
    """For the model."""
    repeat_penalty: float | None
    """For the model."""
    seed: int | None
    """The seed of all random numbers; by default one is drawn."""
    max_frames: int | None
    """The most frames, of which today's models have 12.5 a second; by default the model or the context ends it."""
    max_seconds: float | None
    """Seconds after which the sound ends as it is, waiting included; by default there is no limit."""


__all__ = [
    "AsyncLlamaOptions", "ChatOptions", "ChatTemplate", "ClassifyOptions", "EmbedOptions", "GenerateOptions",
    "HubOptions", "InfillLayout", "InfillOptions", "LlamaOptions", "Norm", "OnError", "OnIncomplete", "OnUnsupported",
    "PerplexityOptions", "RenderOptions", "RerankOptions", "SchemaOption", "ScoreOptions", "SimilarityOptions",
    "SpeechOptions",
    "TemplateOptions", "TextOptions", "ToolOptions", "WhenFull", "check_options",
]  # fmt: skip
