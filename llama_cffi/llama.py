"""The class Llama: the calls that generate, converse, embed and score with one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from llama_cffi import answers, spec
from llama_cffi import options as opt
from llama_cffi._util.progress import Progress, reporting
from llama_cffi._util.signatures import takes_options
from llama_cffi.open_model import OpenModel
from llama_cffi.prepare import generation
from llama_cffi.reply.completion import P
from llama_cffi.speech import Speaking
from llama_cffi.stream import Stream, run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.chat_session import ChatSession
    from llama_cffi.given import AnyPrompt, Embeddable, Given, Messages, Prompts, Texts, Tokens
    from llama_cffi.prompt.messages import Message
    from llama_cffi.reply.completion import Chunk, Completion
    from llama_cffi.reply.reply import Reply, ReplyChunk
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.tool_loop import ToolLoop, ToolResult, ToolRun


class Llama(Speaking, OpenModel):
    """A model ready to generate and to embed.

    ``model`` is what :class:`Model` takes (the path of a GGUF file, its bytes, an open file, an
    :class:`ArchiveMember`), or a :class:`Model`, which may be shared: closing this object closes the model only if this
    object loaded it. The options are those of :class:`~llama_cffi.options.LlamaOptions`; in this and every
    other call None means "not given". All layers go to a GPU when the library can use one; ``model.placement`` shows
    the bytes on each device.

    Any thread may call any method: concurrent calls are computed together, in one batch. :meth:`fork` returns a second
    ``Llama`` over the same weights, which computes independently of this one.

    It pickles as a reference: another process opens the same file, unless it has changed, with the same options.
    Texts in memory are not part of that, and what exists in this process only raises ``TypeError``: a model that was
    given as bytes or as an open file, adapters that are set, options that cannot be pickled.

    Raises :class:`ModelFileError` and :class:`ContextError` with the reason that llama.cpp logged.
    """

    # -- text

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: Given,
        *,
        n: None = None,
        best_of: int | None = None,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions[P]],
    ) -> Completion[P]: ...

    @overload
    def generate(
        self,
        prompt: Given,
        *,
        n: int,
        best_of: int | None = None,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions[P]],
    ) -> list[Completion[P]]: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompts, *, progress: Progress | None = None, **options: Unpack[opt.GenerateOptions[P]]
    ) -> list[Completion[P]]: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: AnyPrompt, **options: Unpack[opt.GenerateOptions[P]]
    ) -> Completion[P]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[AnyPrompt],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions[P]],
    ) -> list[Completion[P]]: ...

    @takes_options(opt.GenerateOptions)
    def generate(
        self,
        prompt: Any,
        *,
        n: int | None = None,
        best_of: int | None = None,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions[P]],
    ) -> Completion[P] | list[Completion[P]]:
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

    @takes_options(opt.GenerateOptions)
    def map(
        self,
        prompts: Iterable[AnyPrompt],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.GenerateOptions[P]],
    ) -> Iterator[tuple[int, Completion[P]]]:
        """Continue each prompt of an iterable; yield its index and its completion, in the order of completion.

        Prompts are taken from the iterable when there is room for them, so the iterable may be of any length.
        ``progress`` is as in :meth:`generate`, and needs ``len(prompts)``. An exception, and closing the iterator,
        cancel the running requests. Raises the errors of :meth:`generate`; those about one prompt are raised when that
        prompt is taken.
        """
        engine, formats, asked = self._runtime.engine, self._runtime.formats, spec.GenerateSpec.of([], options)
        prepared = generation.prepare_more(prompts, asked, formats, self._runtime.defaults)
        return answers.in_order_of_completion(engine, prepared, 2 * self.context.n_seq_max, prompts, progress)

    @takes_options(opt.GenerateOptions)
    def stream(self, prompt: AnyPrompt, **options: Unpack[opt.GenerateOptions[P]]) -> Stream[Chunk[P]]:
        """Continue a prompt as an iterator of chunks; the last one carries the :class:`Completion`.

        The errors that :meth:`generate` raises before computing are raised by this call, not by the first iteration.
        Closing the stream cancels the request, and ``with`` closes it. Several streams may be read in turn, or by
        several threads.
        """
        engine, asked = self._runtime.engine, spec.GenerateSpec.of(prompt, options)
        return Stream(engine, generation.prepare_text(asked, self._runtime.formats, self._runtime.defaults))

    @takes_options(opt.InfillOptions)
    def infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions[P]]) -> Completion[P]:
        """Generate the text between ``prefix`` and ``suffix``, for example at a cursor in source code.

        Raises :class:`UnsupportedError` for a model without fill-in-the-middle tokens, and the errors of
        :meth:`generate`.
        """
        return self._infill(spec.InfillSpec(prefix, suffix, options)).result()

    @takes_options(opt.InfillOptions)
    def stream_infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions[P]]) -> Stream[Chunk[P]]:
        """Generate the text between ``prefix`` and ``suffix`` as an iterator of chunks; see :meth:`stream`."""
        return self._infill(spec.InfillSpec(prefix, suffix, options))

    def _infill(self, asked: spec.InfillSpec) -> Stream[Chunk]:
        engine = self._runtime.engine
        return Stream(engine, generation.prepare_infill(asked, self._runtime.formats, self._runtime.defaults))

    # -- conversations

    @takes_options(opt.ChatOptions)
    def chat(self, messages: Messages, **options: Unpack[opt.ChatOptions[P]]) -> Reply[P]:
        """Generate the reply to a conversation, in the format of the model's chat template.

        ``messages`` are mappings with ``role`` and ``content``, or one text of the user. Their text never becomes
        control tokens. With ``tools`` the reply may call some of them (``reply.tool_calls``), with arguments that
        satisfy their schemas; with ``schema`` the answer satisfies the schema.

        Raises, before anything is computed, :class:`MessageError` for malformed messages, :class:`TemplateError` for a
        model without a template or a template that refuses the messages, :class:`ToolError` and :class:`SchemaError`;
        :class:`IncompleteOutput` when a call or a structured answer was cut; and the errors of :meth:`generate`.
        """
        return self._ask(spec.ChatSpec(messages, options)).result()

    @takes_options(opt.ChatOptions)
    def stream_chat(self, messages: Messages, **options: Unpack[opt.ChatOptions[P]]) -> Stream[ReplyChunk[P]]:
        """Generate the reply as an iterator of chunks with text, reasoning or calls; the last one has the reply.

        The errors that :meth:`chat` raises before computing are raised by this call. Closing the iterator cancels the
        request.
        """
        return self._ask(spec.ChatSpec(messages, options))

    def _ask(self, asked: spec.ChatSpec) -> Stream[ReplyChunk]:
        from llama_cffi.prepare.chat import prepare_chat

        engine = self._runtime.engine
        return Stream(engine, prepare_chat(asked, self._runtime.formats, self._runtime.defaults))

    @takes_options(opt.ToolOptions)
    def run_tools(self, messages: Messages, **options: Unpack[opt.ToolOptions[P]]) -> ToolRun[P]:
        """Generate replies and call the tools that they ask for, until a reply calls none.

        Each of the ``tools`` must be a function or have one. Arguments that do not fit are reported to the model; other
        exceptions of a tool reach the caller unless ``on_error="report"``. A ``tool_choice`` that demands a call
        applies to the first reply only. Raises :class:`ToolError`, :class:`ToolLimitError`, and the errors of
        :meth:`chat`.
        """
        return self._tool_loop(spec.ToolsSpec(messages, options)).run()

    @takes_options(opt.ToolOptions)
    def stream_tools(
        self, messages: Messages, **options: Unpack[opt.ToolOptions[P]]
    ) -> Iterator[ReplyChunk[P] | ToolResult]:
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

        A list may also hold :class:`Prompt` values, which are computed unchanged. With a projector and
        ``pooling="last"`` it may be an :class:`Image`, or hold images, and lists of the parts of one prompt.

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
        self, text: str | Tokens, *, progress: Progress | None = None, **options: Unpack[opt.PerplexityOptions]
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

    # -- prompts

    def save_prompt(self, prompt: AnyPrompt, path: str | PathLike[str]) -> int:
        """Compute a prompt, unless it is in memory already, write its state, and return its number of tokens.

        Any prompt with the same beginning can reuse the file. With recurrent models and models with a sliding window, a
        prompt must continue this one, or one of its checkpoints at the ends of messages and media (``host_bytes``).
        Raises the errors of :meth:`generate` and
        :meth:`save_state`.
        """
        runtime, wanted = self._runtime, generation.as_prompt(spec.any_prompt(prompt), self._runtime.formats)
        self.generate(wanted, max_tokens=1, temperature=0)
        runtime.states.write_prompt(wanted, path, runtime.conditioning)
        return len(wanted)


__all__ = ["Llama"]
