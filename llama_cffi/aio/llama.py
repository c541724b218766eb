"""The class AsyncLlama: the methods of Llama for coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from llama_cffi import answers, spec
from llama_cffi import options as opt
from llama_cffi._util.closing import AsyncClosing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.signatures import takes_options
from llama_cffi.aio.calls import Calls
from llama_cffi.aio.jobs import on_thread
from llama_cffi.aio.speech import AsyncSpeaking
from llama_cffi.aio.stream import AsyncStream
from llama_cffi.aio.tool_loop import AsyncToolLoop
from llama_cffi.llama import Llama
from llama_cffi.prepare import generation
from llama_cffi.reply.completion import P
from llama_cffi.runtime import demo_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self, Unpack

    from llama_cffi._util.progress import Progress
    from llama_cffi.aio.session import AsyncChatSession
    from llama_cffi.core.model import Model
    from llama_cffi.core.model_paths import ModelGiven
    from llama_cffi.engine.snapshot import EngineSnapshot
    from llama_cffi.given import AnyPrompt, Embeddable, Given, Messages, Prompts, Texts, Tokens
    from llama_cffi.prepare.prepared import Prepared
    from llama_cffi.reply.completion import Chunk, Completion
    from llama_cffi.reply.reply import Reply, ReplyChunk
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.tool_loop import ToolResult, ToolRun

    C = TypeVar("C", bound=Chunk)
    T = TypeVar("T")


class AsyncLlama(AsyncSpeaking, AsyncClosing, ProcessBound):
    """A :class:`~llama_cffi.Llama` for coroutines: calls that compute are awaited and do not block the event loop.

    ``model`` is what :class:`Llama` takes, or a Llama, whose own methods may be called at the same time, from any
    thread. One thread of the engine's own computes for all. Any number of tasks, and several event loops, may use one;
    what is running at the same time is computed together. With ``when_full="wait"`` a call waits where there is no room
    in the queue (``max_waiting``), instead of raising :class:`QueueFullError`.

    Opening a model takes a while: ``await AsyncLlama.open(...)`` does it on another thread. ``async with`` closes the
    Llama at its end if this object made it.

    Cancelling the task that waits for a call cancels what it asked for, before the next step of the engine;
    ``asyncio.timeout`` therefore ends it as one expects. ``max_seconds`` ends a text with what there is instead.
    """

    _instead_of_pickling = "open the model in each process"
    _instead_of_copying = "any number of tasks may use one"

    @takes_options(opt.AsyncLlamaOptions)
    def __init__(self, model: ModelGiven | Model | Llama, **options: Unpack[opt.AsyncLlamaOptions]) -> None:
        given = opt.check_options(opt.AsyncLlamaOptions, options)
        own = {name: given.pop(name) for name in ("when_full", "max_compile_seconds") if name in given}
        self._owns = not isinstance(model, Llama)
        if isinstance(model, Llama):
            if given:
                raise ValueError(f"{', '.join(given)}: the Llama is already open; give these options to Llama(...)")
            self._llama = model
        else:
            self._llama = Llama(model, **{"driver": "thread", **given})
        self._calls = Calls(self._llama._runtime, **own)

    @classmethod
    @takes_options(opt.AsyncLlamaOptions)
    async def open(cls, model: ModelGiven | Model, **options: Unpack[opt.AsyncLlamaOptions]) -> Self:
        """Open a model without blocking the event loop; raises the errors of :class:`Llama`."""
        return await on_thread(partial(cls, model, **options))

    @classmethod
    @takes_options(opt.AsyncLlamaOptions)
    async def demo(cls, **options: Unpack[opt.AsyncLlamaOptions]) -> Self:
        """Open the model that ships with the package."""
        return await cls.open(demo_path(), **options)

    @classmethod
    @takes_options(opt.HubOptions)
    async def from_hub(cls, name: str, **options: Unpack[opt.HubOptions]) -> Self:
        """Download a model from the Hugging Face hub and open it; raises the errors of :meth:`Llama.from_hub`."""
        llama = await on_thread(partial(Llama.from_hub, name, **cast("Any", {"driver": "thread", **options})))
        self = cls(llama)
        self._owns = True
        return self

    @property
    def llama(self) -> Llama:
        """The underlying Llama. Its methods block the event loop while they compute."""
        return self._llama

    # -- text

    @overload
    async def generate(  # type: ignore[overload-overlap]
        self, prompt: Given, *, n: None = None, best_of: int | None = None, **options: Unpack[opt.GenerateOptions[P]]
    ) -> Completion[P]: ...

    @overload
    async def generate(
        self, prompt: Given, *, n: int, best_of: int | None = None, **options: Unpack[opt.GenerateOptions[P]]
    ) -> list[Completion[P]]: ...

    @overload
    async def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompts, **options: Unpack[opt.GenerateOptions[P]]
    ) -> list[Completion[P]]: ...

    @overload
    async def generate(  # type: ignore[overload-overlap]
        self, prompt: AnyPrompt, **options: Unpack[opt.GenerateOptions[P]]
    ) -> Completion[P]: ...

    @overload
    async def generate(
        self, prompt: Sequence[AnyPrompt], **options: Unpack[opt.GenerateOptions[P]]
    ) -> list[Completion[P]]: ...

    @takes_options(opt.GenerateOptions)
    async def generate(
        self,
        prompt: Any,
        *,
        n: int | None = None,
        best_of: int | None = None,
        **options: Unpack[opt.GenerateOptions[P]],
    ) -> Completion[P] | list[Completion[P]]:
        """Continue a prompt, or several; see :meth:`Llama.generate`."""
        asked = spec.GenerateSpec.of(prompt, options, n=n, best_of=best_of)
        return await self._calls.run(self._calls.prepare(generation.prepare_texts, asked))

    @takes_options(opt.GenerateOptions)
    async def map(
        self, prompts: Iterable[AnyPrompt], **options: Unpack[opt.GenerateOptions[P]]
    ) -> AsyncIterator[tuple[int, Completion[P]]]:
        """Continue each prompt of an iterable; yield its number and its completion when it is done.

        See :meth:`Llama.map`.
        """
        runtime, asked = self._llama._runtime, spec.GenerateSpec.of([], options)
        more = partial(generation.prepare_more, prompts, asked, runtime.formats, runtime.defaults)
        async for done in self._calls.as_completed(more, 2 * self._llama.context.n_seq_max):
            yield done

    @takes_options(opt.GenerateOptions)
    def stream(self, prompt: AnyPrompt, **options: Unpack[opt.GenerateOptions[P]]) -> AsyncStream[Chunk[P]]:
        """Continue a prompt as an iterator of chunks; see :meth:`Llama.stream`."""
        return self._stream(generation.prepare_text, spec.GenerateSpec.of(prompt, options))

    @takes_options(opt.InfillOptions)
    async def infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions[P]]) -> Completion[P]:
        """Generate the text between two texts; see :meth:`Llama.infill`."""
        return await self.stream_infill(prefix, suffix, **options).result()

    @takes_options(opt.InfillOptions)
    def stream_infill(self, prefix: str, suffix: str, **options: Unpack[opt.InfillOptions[P]]) -> AsyncStream[Chunk[P]]:
        """Do as :meth:`infill`, as an iterator of chunks."""
        return self._stream(generation.prepare_infill, spec.InfillSpec(prefix, suffix, options))

    # -- conversations

    @takes_options(opt.ChatOptions)
    async def chat(self, messages: Messages, **options: Unpack[opt.ChatOptions[P]]) -> Reply[P]:
        """Generate the reply to a conversation; see :meth:`Llama.chat`."""
        return await self.stream_chat(messages, **options).result()

    @takes_options(opt.ChatOptions)
    def stream_chat(self, messages: Messages, **options: Unpack[opt.ChatOptions[P]]) -> AsyncStream[ReplyChunk[P]]:
        """Do as :meth:`chat`, as an iterator of chunks; see :meth:`Llama.stream_chat`."""
        return self._ask(spec.ChatSpec(messages, options))

    def _ask(self, asked: spec.ChatSpec) -> AsyncStream[ReplyChunk]:
        from llama_cffi.prepare.chat import prepare_chat

        return self._stream(prepare_chat, asked)

    @takes_options(opt.ToolOptions)
    async def run_tools(self, messages: Messages, **options: Unpack[opt.ToolOptions[P]]) -> ToolRun[P]:
        """Generate replies and call the tools that they ask for; see :meth:`Llama.run_tools`.

        Tools may be ``async def``; others run on another thread. The calls of one reply run at the same time.
        """
        return await AsyncToolLoop(self._ask, spec.ToolsSpec(messages, options)).run()

    @takes_options(opt.ToolOptions)
    def stream_tools(
        self, messages: Messages, **options: Unpack[opt.ToolOptions[P]]
    ) -> AsyncIterator[ReplyChunk[P] | ToolResult]:
        """Do as :meth:`run_tools`, as an iterator of the chunks of all replies, and the results of tools in between."""
        return aiter(AsyncToolLoop(self._ask, spec.ToolsSpec(messages, options)))

    @takes_options(opt.ChatOptions)
    def session(self, messages: Sequence[Any] = (), **options: Unpack[opt.ChatOptions]) -> AsyncChatSession:
        """Return a conversation with a history; see :class:`AsyncChatSession`."""
        from llama_cffi.aio.session import AsyncChatSession

        return AsyncChatSession(self, messages, **options)

    # -- tokens: these compute nothing with the model, and are called as they are

    @takes_options(opt.RenderOptions)
    def render_chat(self, messages: Messages, **options: Unpack[opt.RenderOptions]) -> str:
        """Return the conversation as the text that the chat template renders; see :meth:`Llama.render_chat`."""
        return self._llama.render_chat(messages, **options)

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """Return the token ids of a text; see :meth:`Llama.tokenize`."""
        return self._llama.tokenize(text, add_special=add_special, parse_special=parse_special)

    @takes_options(opt.RenderOptions)
    def tokenize_chat(self, messages: Messages, **options: Unpack[opt.RenderOptions]) -> NDArray[np.int32]:
        """Return the token ids of a conversation; see :meth:`Llama.tokenize_chat`."""
        return self._llama.tokenize_chat(messages, **options)

    def detokenize(self, tokens: Tokens, *, remove_special: bool = False, unparse_special: bool = True) -> str:
        """Return the text of token ids; see :meth:`Llama.detokenize`."""
        return self._llama.detokenize(tokens, remove_special=remove_special, unparse_special=unparse_special)

    # -- vectors and scores; progress is called on another thread

    @takes_options(opt.EmbedOptions)
    async def embed(
        self,
        texts: Embeddable,
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.EmbedOptions],
    ) -> Embeddings:
        """Return the embeddings of texts; see :meth:`Llama.embed`."""
        return await self._calls.call_with_progress(self._llama.embed, progress, texts, **options)

    @overload
    async def similarity(self, a: str, b: str, **options: Unpack[opt.SimilarityOptions]) -> float: ...

    @overload
    async def similarity(self, a: str, b: Texts, **options: Unpack[opt.SimilarityOptions]) -> NDArray[np.float32]: ...

    @overload
    async def similarity(
        self, a: Texts, b: str | Texts, **options: Unpack[opt.SimilarityOptions]
    ) -> NDArray[np.float32]: ...

    @takes_options(opt.SimilarityOptions)
    async def similarity(
        self, a: str | Texts, b: str | Texts, **options: Unpack[opt.SimilarityOptions]
    ) -> float | NDArray[np.float32]:
        """Return the cosine of the angle between the embeddings of texts; see :meth:`Llama.similarity`."""
        return await self._calls.answer(answers.similarity, a, b, opt.check_options(opt.SimilarityOptions, options))

    @takes_options(opt.RerankOptions)
    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.RerankOptions],
    ) -> list[Ranked]:
        """Return the documents in the order of their relevance to the query; see :meth:`Llama.rerank`."""
        return await self._calls.call_with_progress(self._llama.rerank, progress, query, documents, **options)

    @overload
    async def classify(self, texts: str, **options: Unpack[opt.ClassifyOptions]) -> list[Label]: ...

    @overload
    async def classify(self, texts: Texts, **options: Unpack[opt.ClassifyOptions]) -> list[list[Label]]: ...

    @takes_options(opt.ClassifyOptions)
    async def classify(
        self, texts: str | Texts, **options: Unpack[opt.ClassifyOptions]
    ) -> list[Label] | list[list[Label]]:
        """Return all labels of the model with the score of a text; see :meth:`Llama.classify`."""
        return await self._calls.answer(answers.classify, spec.ClassifySpec(texts, options))

    @takes_options(opt.PerplexityOptions)
    async def perplexity(
        self,
        text: str | Tokens,
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.PerplexityOptions],
    ) -> Perplexity:
        """Return the perplexity of a text; see :meth:`Llama.perplexity`."""
        return await self._calls.call_with_progress(self._llama.perplexity, progress, text, **options)

    @takes_options(opt.ScoreOptions)
    async def score(
        self,
        prefix: str | Tokens,
        continuations: Sequence[str | Sequence[int]],
        *,
        progress: Progress | None = None,
        **options: Unpack[opt.ScoreOptions],
    ) -> list[Score]:
        """Return the log-probabilities of continuations after one prefix; see :meth:`Llama.score`."""
        return await self._calls.call_with_progress(self._llama.score, progress, prefix, continuations, **options)

    # -- the whole

    def stats(self) -> EngineSnapshot:
        """Return the numbers of running and waiting requests, and the other counts of the engine."""
        return self._llama._runtime.engine.snapshot()

    async def retry_while_busy(self, call: Callable[[], T], timeout: float) -> T:
        """Return what a call of the :attr:`llama` returns, made on another thread, once no request is in its way.

        While it raises :class:`BusyError`, as :meth:`Llama.save_slot` does for a slot in use, it is made again after
        the end of a request of this object, and each second. Raises that error after ``timeout`` seconds.
        """
        return await self._calls.running.retry(partial(on_thread, call), timeout)

    async def drain(self, timeout: float | None = None) -> None:
        """Refuse new calls, and return when the running calls have ended.

        Raises :class:`TimeoutError` when some still run after ``timeout`` seconds: they go on until :meth:`aclose`.
        """
        await self._calls.drain(timeout)

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called, or the Llama was closed."""
        return self._calls.closed or self._llama.closed

    async def aclose(self) -> None:
        """End what runs with :class:`ClosedError`, and close the Llama if this object made it. Idempotent."""
        self._calls.close()
        if self._owns:
            await on_thread(self._llama.close)

    def _stream(self, prepare: Callable[[Any, Any, Any], Prepared[C]], asked: Any) -> AsyncStream[C]:
        return AsyncStream(partial(self._calls.start, self._calls.prepare(prepare, asked)))

    def __repr__(self) -> str:
        return f"<AsyncLlama {self._llama!r}>"


__all__ = ["AsyncLlama"]
