"""The class Llama: generation, conversations, embeddings, scores and saved states of one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np

from llama_cffi import answers, spec
from llama_cffi import options as opt
from llama_cffi._util.closing import Closing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.progress import Progress, reporting
from llama_cffi._util.scalars import is_int
from llama_cffi._util.shown import shown
from llama_cffi._util.signatures import takes_options
from llama_cffi.core.context import Context
from llama_cffi.core.model import Model
from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.isolation import open_runtime
from llama_cffi.prepare import generation
from llama_cffi.runtime import demo_path
from llama_cffi.stream import Stream, run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self, Unpack

    from llama_cffi.chat_session import ChatSession
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.control_vector import ControlVector
    from llama_cffi.core.media.audio import Audio
    from llama_cffi.core.media.image import Image
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.media.video import Video
    from llama_cffi.core.memory_breakdown import MemoryBreakdown
    from llama_cffi.core.prompt import Prompt
    from llama_cffi.core.state import BytesLike
    from llama_cffi.engine.snapshot import SlotSnapshot
    from llama_cffi.prompt.messages import Message
    from llama_cffi.reply.completion import Chunk, Completion
    from llama_cffi.reply.reply import Reply, ReplyChunk
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.tool_loop import ToolLoop, ToolResult, ToolRun

    Tokens = Sequence[int] | NDArray[np.int32]
    Messages = str | Sequence[Message]
    Texts = list[str] | tuple[str, ...]
    Prompts = list[str] | tuple[str, ...] | list[list[int]] | list[NDArray[np.int32]] | list[Prompt]
    Mixed = Sequence[str | Image | Audio | Video]
    Embeddable = str | Image | Audio | Video | Sequence[str | Prompt | Image | Audio | Video | Mixed]
    Given = str | Tokens

T = TypeVar("T")


class Llama(Closing, ProcessBound):
    """A model ready to generate and to embed.

    ``model`` is the path of a GGUF file, or a :class:`Model`, which may be shared: closing this object closes the model
    only if this object loaded it. The options are those of :class:`~llama_cffi.options.LlamaOptions`; in this and every
    other call None means "not given". All layers go to a GPU when the library can use one; ``model.placement`` shows
    the bytes on each device.

    Any thread may call any method: concurrent calls are computed together, in one batch. :meth:`fork` returns a second
    ``Llama`` over the same weights, which computes independently of this one.

    Raises :class:`ModelFileError` and :class:`ContextError` with the reason that llama.cpp logged.
    """

    _instead_of_pickling = "open the model in each process"
    _instead_of_copying = "use fork(), which gives a second one over the same weights"

    @takes_options(opt.LlamaOptions)
    def __init__(self, model: str | PathLike[str] | Model, **options: Unpack[opt.LlamaOptions]) -> None:
        self._runtime = open_runtime(model, opt.check_options(opt.LlamaOptions, options))

    @classmethod
    @takes_options(opt.LlamaOptions)
    def demo(cls, **options: Unpack[opt.LlamaOptions]) -> Self:
        """Open the model that ships with the package, a tiny model that writes children's stories."""
        return cls(demo_path(), **options)

    @classmethod
    @takes_options(opt.HubOptions)
    def from_hub(cls, name: str, **options: Unpack[opt.HubOptions]) -> Self:
        """Download a model from the Hugging Face hub, unless the cache has it, and open it.

        ``name`` is ``owner/repo``, ``owner/repo:Q4_K_M`` or ``owner/repo/path/file.gguf``; ``mmproj="auto"`` downloads
        the projector of its repository too. Raises the subclasses of :class:`HubError`, :class:`UnsupportedError` if
        huggingface_hub is not installed, and the errors of the constructor.
        """
        from llama_cffi.hub import pull, pull_projector

        given = opt.check_options(opt.HubOptions, options)
        wanted: dict[str, Any] = {key: given.pop(key) for key in ("revision", "offline") if key in given}
        wanted["progress"] = given.pop("download_progress", None)
        if given.get("mmproj") == "auto":
            given["mmproj"] = pull_projector(name, **wanted)
        return cls(pull(name, **wanted), **given)

    # -- text

    @overload
    def generate(
        self,
        prompt: str | Tokens,
        *,
        schema: type[T],
        n: None = None,
        best_of: int | None = None,
        **options: Unpack[opt.PromptOptions],
    ) -> Completion[T]: ...

    @overload
    def generate(
        self,
        prompt: str | Tokens,
        *,
        schema: type[T],
        n: int,
        best_of: int | None = None,
        **options: Unpack[opt.PromptOptions],
    ) -> list[Completion[T]]: ...

    @overload
    def generate(
        self,
        prompt: Prompts,
        *,
        schema: type[T],
        progress: Progress | None = None,
        **options: Unpack[opt.PromptOptions],
    ) -> list[Completion[T]]: ...

    @overload
    def generate(
        self,
        prompt: str | Tokens,
        *,
        n: None = None,
        best_of: int | None = None,
        **options: Unpack[opt.GenerateOptions],
    ) -> Completion: ...

    @overload
    def generate(
        self, prompt: str | Tokens, *, n: int, best_of: int | None = None, **options: Unpack[opt.GenerateOptions]
    ) -> list[Completion]: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompts, *, progress: Progress | None = None, **options: Unpack[opt.GenerateOptions]
    ) -> list[Completion]: ...

    @overload
    def generate(self, prompt: Mixed, **options: Unpack[opt.GenerateOptions]) -> Completion: ...

    @takes_options(opt.GenerateOptions)
    def generate(
        self,
        prompt: Any,
        *,
        n: int | None = None,
        best_of: int | None = None,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions],
    ) -> Completion | list[Completion]:
        """Continue a prompt and return the completion; a list of prompts gives a list, computed together.

        A list with an image or sound in it is one prompt: ``["What is in ", Image("cat.jpg"), "?"]``.
        Sampling is set with ``sampling=SamplingParams(...)`` or its fields (``temperature=0`` is greedy). In a list
        every prompt uses the same seed: each result equals that of the prompt alone, apart from rounding differences of
        batched arithmetic. ``n`` generates n completions of one prompt, which is computed once; completion i has the
        seed plus i. ``best_of`` generates this many and keeps those with the highest mean log-probability per token,
        best first. ``progress`` receives the part of the completions that is done, 0.0 to 1.0; True shows a bar.

        Raises :class:`PromptError` (including :class:`ContextOverflowError`), :class:`SchemaError` and
        :class:`SamplerError` before anything is computed, :class:`GrammarError` and :class:`DecodeError` while
        computing, and :class:`IncompleteOutput` when a text with a schema was cut. Ctrl-C stops within a fraction of a
        second and leaves the object usable.
        """
        engine, asked = self._runtime.engine, spec.GenerateSpec.of(prompt, options, n=n, best_of=best_of)
        prepared = generation.prepare_texts(asked, self._runtime.formats, self._runtime.defaults)
        with reporting(progress, "generating") as report:
            return prepared.answer(run(engine, prepared.parts, report))

    @overload
    def map(
        self,
        prompts: Iterable[str | Tokens | Mixed],
        *,
        schema: type[T],
        progress: Progress | None = None,
        **options: Unpack[opt.PromptOptions],
    ) -> Iterator[tuple[int, Completion[T]]]: ...

    @overload
    def map(
        self,
        prompts: Iterable[str | Tokens | Mixed],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions],
    ) -> Iterator[tuple[int, Completion]]: ...

    @takes_options(opt.GenerateOptions)
    def map(
        self,
        prompts: Iterable[str | Tokens | Mixed],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions],
    ) -> Iterator[tuple[int, Completion]]:
        """Continue each prompt of an iterable; yield its index and its completion, in the order of completion.

        Prompts are taken from the iterable when there is room for them, so the iterable may be of any length.
        ``progress`` is as in :meth:`generate`, and needs ``len(prompts)``. An exception, and closing the iterator,
        cancel the running requests. Raises the errors of :meth:`generate`; those about one prompt are raised when that
        prompt is taken.
        """
        engine, formats, asked = self._runtime.engine, self._runtime.formats, spec.GenerateSpec.of([], options)
        prepared = generation.prepare_more(prompts, asked, formats, self._runtime.defaults)
        return answers.in_order_of_completion(engine, prepared, 2 * self.context.n_seq_max, prompts, progress)

    @overload
    def stream(
        self, prompt: str | Tokens | Mixed, *, schema: type[T], **options: Unpack[opt.PromptOptions]
    ) -> Stream[Chunk[T]]: ...

    @overload
    def stream(self, prompt: str | Tokens | Mixed, **options: Unpack[opt.GenerateOptions]) -> Stream[Chunk]: ...

    @takes_options(opt.GenerateOptions)
    def stream(self, prompt: str | Tokens | Mixed, **options: Unpack[opt.GenerateOptions]) -> Stream[Chunk]:
        """Continue a prompt as an iterator of chunks; the last one carries the :class:`Completion`.

        The errors that :meth:`generate` raises before computing are raised by this call, not by the first iteration.
        Closing the stream cancels the request, and ``with`` closes it. Several streams may be read in turn, or by
        several threads.
        """
        engine, asked = self._runtime.engine, spec.GenerateSpec.of(prompt, options)
        return Stream(engine, generation.prepare_text(asked, self._runtime.formats, self._runtime.defaults))

    @overload
    def infill(
        self, prefix: str, suffix: str, *, schema: type[T], **options: Unpack[opt.GapOptions]
    ) -> Completion[T]: ...

    @overload
    def infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions]) -> Completion: ...

    @takes_options(opt.InfillOptions)
    def infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions]) -> Completion:
        """Generate the text between ``prefix`` and ``suffix``, for example at a cursor in source code.

        Raises :class:`UnsupportedError` for a model without fill-in-the-middle tokens, and the errors of
        :meth:`generate`.
        """
        return self._infill(spec.InfillSpec(prefix, suffix, options)).result()

    @overload
    def stream_infill(
        self, prefix: str, suffix: str, *, schema: type[T], **options: Unpack[opt.GapOptions]
    ) -> Stream[Chunk[T]]: ...

    @overload
    def stream_infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions]) -> Stream[Chunk]: ...

    @takes_options(opt.InfillOptions)
    def stream_infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions]) -> Stream[Chunk]:
        """Generate the text between ``prefix`` and ``suffix`` as an iterator of chunks; see :meth:`stream`."""
        return self._infill(spec.InfillSpec(prefix, suffix, options))

    def _infill(self, asked: spec.InfillSpec) -> Stream[Chunk]:
        engine = self._runtime.engine
        return Stream(engine, generation.prepare_infill(asked, self._runtime.formats, self._runtime.defaults))

    # -- conversations

    @overload
    def chat(self, messages: Messages, *, schema: type[T], **options: Unpack[opt.ReplyOptions]) -> Reply[T]: ...

    @overload
    def chat(self, messages: Messages, **options: Unpack[opt.ChatOptions]) -> Reply: ...

    @takes_options(opt.ChatOptions)
    def chat(self, messages: Messages, **options: Unpack[opt.ChatOptions]) -> Reply:
        """Generate the reply to a conversation, in the format of the model's chat template.

        ``messages`` are mappings with ``role`` and ``content``, or one text of the user. Their text never becomes
        control tokens. With ``tools`` the reply may call some of them (``reply.tool_calls``), with arguments that
        satisfy their schemas; with ``schema`` the answer satisfies the schema.

        Raises, before anything is computed, :class:`MessageError` for malformed messages, :class:`TemplateError` for a
        model without a template or a template that refuses the messages, :class:`ToolError` and :class:`SchemaError`;
        :class:`IncompleteOutput` when a call or a structured answer was cut; and the errors of :meth:`generate`.
        """
        return cast("Reply", self._ask(spec.ChatSpec(messages, options)).result())

    @overload
    def stream_chat(
        self, messages: Messages, *, schema: type[T], **options: Unpack[opt.ReplyOptions]
    ) -> Stream[ReplyChunk[T]]: ...

    @overload
    def stream_chat(self, messages: Messages, **options: Unpack[opt.ChatOptions]) -> Stream[ReplyChunk]: ...

    @takes_options(opt.ChatOptions)
    def stream_chat(self, messages: Messages, **options: Unpack[opt.ChatOptions]) -> Stream[ReplyChunk]:
        """Generate the reply as an iterator of chunks with text, reasoning or calls; the last one has the reply.

        The errors that :meth:`chat` raises before computing are raised by this call. Closing the iterator cancels the
        request.
        """
        return self._ask(spec.ChatSpec(messages, options))

    def _ask(self, asked: spec.ChatSpec) -> Stream[ReplyChunk]:
        from llama_cffi.prepare.chat import prepare_chat

        engine = self._runtime.engine
        return Stream(engine, prepare_chat(asked, self._runtime.formats, self._runtime.defaults))

    @overload
    def run_tools(self, messages: Messages, *, schema: type[T], **options: Unpack[opt.RunOptions]) -> ToolRun[T]: ...

    @overload
    def run_tools(self, messages: Messages, **options: Unpack[opt.ToolOptions]) -> ToolRun: ...

    @takes_options(opt.ToolOptions)
    def run_tools(self, messages: Messages, **options: Unpack[opt.ToolOptions]) -> ToolRun:
        """Generate replies and call the tools that they ask for, until a reply calls none.

        Each of the ``tools`` must be a function or have one. Arguments that do not fit are reported to the model; other
        exceptions of a tool reach the caller unless ``on_error="report"``. A ``tool_choice`` that demands a call
        applies to the first reply only. Raises :class:`ToolError`, :class:`ToolLimitError`, and the errors of
        :meth:`chat`.
        """
        return self._tool_loop(spec.ToolsSpec(messages, options)).run()

    @takes_options(opt.ToolOptions)
    def stream_tools(self, messages: Messages, **options: Unpack[opt.ToolOptions]) -> Iterator[ReplyChunk | ToolResult]:
        """Run tools as :meth:`run_tools` does; yield the chunks of all replies and the results of tools in between."""
        return iter(self._tool_loop(spec.ToolsSpec(messages, options)))

    def _tool_loop(self, asked: spec.ToolsSpec) -> ToolLoop:
        from llama_cffi.tool_loop import ToolLoop

        return ToolLoop(self._ask, asked)

    @takes_options(opt.ChatOptions)
    def session(self, messages: Sequence[Message] = (), **options: Unpack[opt.ChatOptions]) -> ChatSession:
        """Return a conversation with a history, which can be saved, rewound and forked; see :class:`ChatSession`."""
        from llama_cffi.chat_session import ChatSession

        self._runtime.check_open()
        return ChatSession(self, messages, **options)

    @takes_options(opt.RenderOptions)
    def render_chat(self, messages: Messages, **options: Unpack[opt.RenderOptions]) -> str:
        """Return the conversation as the text that the chat template renders; raises the errors of :meth:`chat`."""
        from llama_cffi.prepare.chat import render

        return render(spec.RenderSpec(messages, options), self._runtime.formats).text

    # -- tokens

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """Return the token ids of a text, int32 of shape ``(n,)``; see :meth:`Vocab.tokenize`."""
        return self.model.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    @takes_options(opt.RenderOptions)
    def tokenize_chat(self, messages: Messages, **options: Unpack[opt.RenderOptions]) -> NDArray[np.int32]:
        """Return the token ids of a conversation, int32 of shape ``(n,)``; raises the errors of :meth:`chat`.

        Each cell of an image or sound is -1.
        """
        from llama_cffi.prepare.chat import tokenize_chat

        return tokenize_chat(spec.RenderSpec(messages, options), self._runtime.formats)

    def make_prompt(self, prompt: str | Tokens | Mixed) -> Prompt:
        """Return a prompt as :meth:`generate` computes it: its tokens, and the cells of its images and sounds.

        Raises the errors of :meth:`generate` for prompts and media.
        """
        return generation.as_prompt(spec.any_prompt(prompt), self._runtime.formats)

    @takes_options(opt.InfillLayout)
    def tokenize_infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillLayout]) -> NDArray[np.int32]:
        """Return the token ids of the prompt of :meth:`infill`, int32 of shape ``(n,)``."""
        asked = spec.InfillSpec(prefix, suffix, cast("opt.InfillOptions", options))
        return np.array(generation.infill_tokens(asked, self._runtime.formats), dtype=np.int32)

    def detokenize(self, tokens: Tokens, *, remove_special: bool = False, unparse_special: bool = True) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD. See :meth:`Vocab.detokenize`."""
        data = self.model.vocab.detokenize(tokens, remove_special=remove_special, unparse_special=unparse_special)
        return data.decode("utf-8", "replace")

    # -- vectors and scores; progress receives the part that is done, 0.0 to 1.0, and an exception in it ends the call;
    # True shows a bar

    @takes_options(opt.EmbedOptions)
    def embed(
        self,
        texts: Embeddable,
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.EmbedOptions],
    ) -> Embeddings:
        """Return the embeddings of texts: one vector for a text, an array of shape ``(n, dim)`` for a list.

        A list may also hold :class:`Prompt` values, whose tokens are computed unchanged. With a projector and
        ``pooling="last"``, ``texts`` may be an :class:`Image`, and a list may hold images and lists of the parts of
        one prompt: ``[image, ["Find: ", image]]`` are two.

        The texts are computed together in separate contexts, which the first call creates: over the same weights, with
        the adapters of :meth:`set_adapters` and the control vector. The most tokens of a text are ``n_batch`` for
        encoders (and no more than they were trained for), ``n_ubatch`` for decoders with mean or CLS pooling, and the
        context size for other decoders.

        Raises :class:`TextTooLongError`, :class:`PromptError` for an empty list and an empty text,
        :class:`TokenizeError` for a text that is not valid Unicode, :class:`UnsupportedError` for a reranking model.
        """
        return answers.embed(spec.EmbedSpec(texts, options), self._runtime, progress)

    @overload
    def similarity(self, a: str, b: str, **options: Unpack[opt.SimilarityOptions]) -> float: ...

    @overload
    def similarity(self, a: str, b: Texts, **options: Unpack[opt.SimilarityOptions]) -> NDArray[np.float32]: ...

    @overload
    def similarity(self, a: Texts, b: str | Texts, **options: Unpack[opt.SimilarityOptions]) -> NDArray[np.float32]: ...

    @takes_options(opt.SimilarityOptions)
    def similarity(
        self, a: str | Texts, b: str | Texts, **options: Unpack[opt.SimilarityOptions]
    ) -> float | NDArray[np.float32]:
        """Return the cosine of the angle between the embeddings of two texts, -1 to 1.

        The result is a float for two texts, a float32 array of shape ``(len(a), len(b))`` for two lists, and an array
        of one dimension for a list and a text. Raises the errors of :meth:`embed`, and ``ValueError`` for
        ``pooling="none"``.
        """
        return answers.similarity(a, b, opt.check_options(opt.SimilarityOptions, options), self._runtime)

    @takes_options(opt.RerankOptions)
    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.RerankOptions],
    ) -> list[Ranked]:
        """Return the documents in the order of their relevance to the query, the best first.

        Query and document are put into the model's own rerank template; for a model without one they are joined as
        ``BOS query EOS SEP document EOS``. Raises :class:`UnsupportedError` for a model without a classifier head, and
        the errors of :meth:`embed`.
        """
        return answers.rerank(spec.RerankSpec(query, documents, options), self._runtime, progress)

    @overload
    def classify(self, texts: str, **options: Unpack[opt.ClassifyOptions]) -> list[Label]: ...

    @overload
    def classify(self, texts: Texts, **options: Unpack[opt.ClassifyOptions]) -> list[list[Label]]: ...

    @takes_options(opt.ClassifyOptions)
    def classify(self, texts: str | Texts, **options: Unpack[opt.ClassifyOptions]) -> list[Label] | list[list[Label]]:
        """Return all labels of the model with their scores for a text, the highest first; a list of texts gives a list.

        Raises :class:`UnsupportedError` for a model without a classifier head, and the errors of :meth:`embed`.
        """
        return answers.classify(spec.ClassifySpec(texts, options), self._runtime)

    @takes_options(opt.PerplexityOptions)
    def perplexity(
        self,
        text: str | Tokens,
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.PerplexityOptions],
    ) -> Perplexity:
        """Return the perplexity of a text, as llama.cpp's ``llama-perplexity`` computes it.

        The text is cut into chunks; an incomplete chunk at the end is not used. Each chunk is computed separately, with
        BOS as its first token if the model uses one. Raises :class:`PromptError` for a text shorter than a chunk, and
        :class:`ContextOverflowError` for a chunk longer than the context.
        """
        return answers.perplexity(spec.PerplexitySpec(text, options), self._runtime, progress)

    @takes_options(opt.ScoreOptions)
    def score(
        self,
        prefix: str | Tokens,
        continuations: Sequence[str | Sequence[int]],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.ScoreOptions],
    ) -> list[Score]:
        """Return the log-probabilities of continuations after one prefix, which is computed once.

        Prefix and continuation are tokenized together, as one text. The scored tokens begin at the first one that
        differs from the tokens of the prefix without its trailing white space. An empty prefix is the model's BOS, or
        EOS for a model without BOS. Token ids are used unchanged.

        Raises :class:`PromptError` for an empty list or a continuation without tokens, and
        :class:`ContextOverflowError`.
        """
        return answers.score(spec.ScoreSpec(prefix, continuations, options), self._runtime, progress)

    # -- states; these methods need an idle model, and check a state completely before they replace anything

    def save_state(self, path: str | PathLike[str]) -> None:
        """Write all texts in memory to a file; an existing file is replaced atomically.

        After :meth:`load_state`, also in another process, the common beginning of a prompt and one of these texts is
        not computed again. Raises :class:`BusyError` while a request waits or runs, and :class:`StateWriteError`.
        """
        self._runtime.states.write(path, self._runtime.conditioning)

    def load_state(self, path: str | PathLike[str]) -> int:
        """Replace the memory with a file of :meth:`save_state`, and return the number of tokens in it.

        Raises :class:`BusyError`, :class:`StateFormatError` for a damaged file, and :class:`StateMismatchError` for a
        state of another model, llama.cpp, KV type or conditioning, or one that does not fit the context.
        """
        return self._runtime.states.read(path, self._runtime.conditioning)

    def state_bytes(self) -> bytes:
        """Return the bytes that :meth:`save_state` writes; raises :class:`BusyError` while a request waits or runs."""
        return self._runtime.states.to_bytes(self._runtime.conditioning)

    def load_state_bytes(self, data: BytesLike) -> int:
        """Replace the memory with the bytes of :meth:`state_bytes`; see :meth:`load_state`."""
        return self._runtime.states.from_bytes(data, self._runtime.conditioning)

    def save_prompt(self, prompt: str | Tokens | Mixed, path: str | PathLike[str]) -> int:
        """Compute a prompt, unless it is in memory already, write its state, and return its number of tokens.

        With recurrent models and models with a sliding window, only prompts that continue this one can reuse the file;
        with other models, any prompt with the same beginning can. Raises the errors of :meth:`generate` and
        :meth:`save_state`.
        """
        runtime, wanted = self._runtime, generation.as_prompt(spec.any_prompt(prompt), self._runtime.formats)
        self.generate(wanted, max_tokens=1, temperature=0)
        runtime.states.write_prompt(wanted, path, runtime.conditioning)
        return len(wanted)

    def load_prompt(self, path: str | PathLike[str]) -> Prompt:
        """Load a file of :meth:`save_prompt` into memory, keep the other texts, and return its prompt.

        When every slot is taken, it replaces the least recently used text, and more of them when there is no room.
        """
        return self._runtime.states.read_prompt(path, self._runtime.conditioning)

    # -- slots: each holds one text, and is saved and restored while others compute

    def slots(self) -> tuple[SlotSnapshot, ...]:
        """Return the current contents and request of each slot, without waiting for a decode."""
        return self._runtime.engine.slots()

    def save_slot(self, slot: int, path: str | PathLike[str]) -> int:
        """Write the contents of an idle slot to a file, and return the number of tokens.

        Raises :class:`BusyError` for a slot in use, :class:`PromptError` for an empty slot, ``ValueError`` for a slot
        that does not exist, and :class:`StateWriteError`.
        """
        self._check_slot(slot)
        return self._runtime.states.write_slot(slot, path)

    def load_slot(self, slot: int, path: str | PathLike[str]) -> Prompt:
        """Load a file of :meth:`save_slot`, or of :meth:`save_prompt`, into an idle slot, and return its prompt.

        When there is no room, other idle slots are emptied. Raises :class:`BusyError` for a slot in use, the errors of
        :meth:`load_state`, and :class:`MemoryFullError` without room. After an error the slot holds what it held, if
        that still fits without sharing cells with others.
        """
        self._check_slot(slot)
        return self._runtime.states.read_prompt(path, self._runtime.conditioning, slot)

    def clear_slot(self, slot: int) -> int:
        """Empty an idle slot, and return the number of tokens that it held; :class:`BusyError` for a slot in use."""
        self._check_slot(slot)
        return self._runtime.states.clear_slot(slot)

    def _check_slot(self, slot: int) -> None:
        if not is_int(slot, 0, self.context.n_seq_max - 1):
            raise ValueError(f"slot must be 0 to {self.context.n_seq_max - 1}, got {shown(slot)}")

    # -- conditioning

    def load_adapter(self, path: str | PathLike[str]) -> LoraAdapter:
        """Load a LoRA adapter from a GGUF file; it has no effect until a request or :meth:`set_adapters` uses it.

        Raises the errors of :class:`LoraAdapter`. The adapter is closed with the model, or by its own ``close()``.
        """
        return self._runtime.load_adapter(path)

    @property
    def adapters(self) -> dict[LoraAdapter, float]:
        """The adapters of requests that do not specify their own, with their scales."""
        return dict(self._runtime.conditioning.adapters)

    def set_adapters(self, adapters: Mapping[LoraAdapter, float]) -> None:
        """Set the adapters of embeddings and of later requests that do not specify their own; ``{}`` removes all.

        Requests with different adapters are computed in turns, and reuse only what the same adapters have computed.
        Running requests keep their adapters. Raises :class:`AdapterError` for an adapter of another model and
        ``ValueError`` for a scale that is not a finite number.
        """
        self._runtime.check_open()
        self._runtime.condition(self._runtime.conditioning.with_adapters(adapters, self.model))

    def set_control_vector(self, vector: ControlVector | None, *, layers: range | None = None) -> None:
        """Add a control vector to the output of the layers, for later requests and embeddings; None removes it.

        ``layers`` are the layers to add it to; by default all from 1 on. Running requests keep their control vector,
        and a request reuses only what the same control vector has computed. Raises the errors of
        :meth:`Context.set_control_vector`.
        """
        self._runtime.condition(self._runtime.conditioning.with_control_vector(vector, layers, self.model))

    # -- lifetime

    @property
    def model(self) -> Model:
        """The weights and the vocabulary. With ``isolate=True``, only their values can be read."""
        return self._runtime.model

    @property
    def projector(self) -> Projector | None:
        """What takes images and sound for the model; None if it was opened without ``mmproj``."""
        return self._runtime.projector

    @property
    def n_ctx(self) -> int:
        """The maximum number of tokens of one text, its prompt included. All texts share ``context.n_ctx`` cells."""
        return self.context.n_ctx_seq

    @property
    def default_sampling(self) -> SamplingParams:
        """The sampling parameters of a call that gives none: the author's where the model's file has some, else
        llama.cpp's."""
        return SamplingParams(**self._runtime.defaults.sampling)

    @property
    def memory(self) -> MemoryBreakdown:
        """The bytes of the weights, of the context's memory and for computing, on each device.

        Draft models and the contexts that embed or score are not counted. Raises :class:`UnsupportedError` when the
        library does not tell.
        """
        return self.context.memory_breakdown()

    @property
    def context(self) -> Context:
        """The context that the engine generates with. Changing it directly changes the generated texts.

        With ``isolate=True``, only its values can be read.
        """
        return self._runtime.context

    def fork(self) -> Self:
        """Return a second ``Llama`` over the same weights, whose memory begins as a copy of this one's.

        It has a context with the same options, the adapters, the control vector and the prompt cache that are set now,
        and all texts in memory. Afterward the two are independent, and both may compute at the same time, on different
        threads. A draft model gets a second context too; a draft source that the caller wrote is shared. A model that
        this object loaded is closed with the last of them. ``__init__`` is not called; attributes that a subclass has
        set are shared.

        Raises :class:`BusyError` while a request waits or runs, :class:`ContextError` when there is no room for another
        context, and :class:`ClosedError`. Wraps ``llama_state_get_data`` and ``llama_state_set_data``.
        """
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _runtime=self._runtime.fork())
        return twin

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._runtime.closed

    def close(self) -> None:
        """Free the contexts, and the models that this object loaded unless a fork is open. May be called repeatedly."""
        self._runtime.close()

    def __repr__(self) -> str:
        name = f"{type(self).__name__} {self.model.path.name!r}"
        if self.closed:
            return f"<{name}: closed>"
        context = self.context
        return f"<{name} n_ctx={self.n_ctx} n_cells={context.n_ctx} n_seq_max={context.n_seq_max}>"


__all__ = ["Llama"]
