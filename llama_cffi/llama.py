"""The front door: a model, a context and an engine in one object."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.model import Model, ModelOptions, ProgressCallback
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.request import (
    OVERFLOW_POLICIES,
    Chunk,
    Completion,
    Overflow,
    Request,
    SamplingKwargs,
    SamplingParams,
)
from llama_cffi.engine.runner import ContextRunner
from llama_cffi.errors import ClosedError, ModelFileError, PromptError
from llama_cffi.session import ChatSession

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.text.chat import ChatFormat, ChatOptions
    from llama_cffi.text.messages import Message

DEFAULT_N_CTX = 4096
"""Context length unless one is given; less when the model was trained for less."""


class Llama:
    """A model ready to generate.

    ``model`` is the path of a GGUF file, or a :class:`Model` that others share: it is closed with this object only
    when this object loaded it. ``n_ctx`` is the number of tokens in memory over all sequences (default: the smaller
    of 4096 and what the model was trained for; 0: the latter), ``n_seq_max`` how many texts are generated at once.
    ``overflow`` is what happens when a text fills the context: ``"stop"`` finishes it with ``length``, ``"error"``
    raises :class:`ContextOverflowError`, ``"shift"`` forgets the older half and goes on.
    All layers go to a GPU when the library has one (``n_gpu_layers`` limits them, ``model.placement`` says what went
    where); ``require_gpu`` raises :class:`UnsupportedError` instead of computing on the CPU.
    ``model_options`` and ``context_options`` give everything else; the arguments here win over the latter.

    Any thread may call any method: concurrent calls are computed together, in one batch.

    Raises :class:`ModelFileError` and :class:`ContextError` with llama.cpp's reasons.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_seq_max: int = 8,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        n_gpu_layers: int | None = None,
        require_gpu: bool = False,
        overflow: Overflow = "stop",
        model_options: ModelOptions | None = None,
        context_options: ContextOptions | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        if overflow not in OVERFLOW_POLICIES:
            raise ValueError(f"overflow must be one of {', '.join(map(repr, OVERFLOW_POLICIES))}, got {overflow!r}")
        if isinstance(model, Model):
            if model_options is not None or n_gpu_layers is not None or require_gpu or progress is not None:
                raise ValueError("a Model is loaded already: give options of the load and progress to Model()")
            self._owns_model = False
            self.model = model
        else:
            if n_gpu_layers is not None or require_gpu:
                if model_options is not None:
                    raise ValueError("give n_gpu_layers and require_gpu, or model_options, not both")
                model_options = ModelOptions(n_gpu_layers=n_gpu_layers, require_gpu=require_gpu)
            self._owns_model = True
            self.model = Model(model, model_options, progress=progress)
        self.overflow: Overflow = overflow
        try:
            options = _context_options(
                context_options,
                self.model,
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_ubatch=n_ubatch,
                n_seq_max=n_seq_max,
                n_threads=n_threads,
                n_threads_batch=n_threads_batch,
            )
            self.context = Context(self.model, options)
            self._engine = Engine(ContextRunner(self.context))
        except BaseException:
            if self._owns_model:
                self.model.close()
            raise

    @classmethod
    def demo(
        cls,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_seq_max: int = 8,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        overflow: Overflow = "stop",
        context_options: ContextOptions | None = None,
    ) -> Llama:
        """The model that ships with the package: tiny, it writes children's stories."""
        return cls(
            demo_path(),
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_seq_max=n_seq_max,
            n_threads=n_threads,
            n_threads_batch=n_threads_batch,
            overflow=overflow,
            context_options=context_options,
        )

    # -- generating

    @overload
    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: SequenceOf[int] | NDArray[np.int32],
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32] | list[str] | list[list[int]],
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Completion | list[Completion]:
        """Continue a prompt; a list of prompts gives a list of completions, computed together.

        ``max_tokens`` None goes on until the model ends its text or the context is full. ``stop`` strings end the
        text and are not part of it. ``logprobs=n`` reports each token's log-probability with n alternatives.
        Sampling is given as ``sampling=SamplingParams(...)`` or by its fields (``temperature=0`` is greedy); in a
        list every prompt uses the same seed, so each result is what the prompt alone would give.

        Raises :class:`PromptError` (:class:`ContextOverflowError` among them) and :class:`SamplerError` before
        anything is computed, :class:`GrammarError` and :class:`DecodeError` while computing. Ctrl-C stops within a
        fraction of a second and leaves the object usable.
        """
        engine = self._open_engine()
        params = _sampling(sampling, options)
        many = _is_list_of_prompts(prompt)
        prompts = list(prompt) if many else [prompt]
        requests = [
            self._request(one, params, max_tokens, stop, logprobs, overflow)  # type: ignore[arg-type]
            for one in prompts
        ]
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
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        *,
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Iterator[Chunk]:
        """The same as an iterator of chunks; the last one carries the :class:`Completion`.

        What :meth:`generate` raises before computing is raised by this call, not by the first iteration. Closing the
        iterator cancels. Several streams may be read in turn, or by several threads.
        """
        engine = self._open_engine()
        return _Stream(
            engine, self._request(prompt, _sampling(sampling, options), max_tokens, stop, logprobs, overflow)
        )

    def _request(
        self,
        prompt: str | SequenceOf[int] | NDArray[np.int32],
        sampling: SamplingParams,
        max_tokens: int | None,
        stop: str | SequenceOf[str],
        logprobs: int | None,
        overflow: Overflow | None,
    ) -> Request:
        vocab = self.model.vocab
        tokens = vocab.tokenize(prompt) if isinstance(prompt, str) else vocab.check_tokens(prompt)
        if not len(tokens):
            raise PromptError("the prompt has no tokens, and this model puts no BOS before a text")
        return Request(
            tokens=tuple(tokens.tolist()),
            sampling=sampling,
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=logprobs,
            overflow=overflow if overflow is not None else self.overflow,
        )

    # -- chat

    def chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        chat: ChatOptions | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Completion:
        """Generate the reply to a conversation, in the format that the model's chat template gives it.

        ``messages`` are mappings with ``role`` and ``content``, or one text of the user. The reply continues
        ``prefix``, which the result does not repeat. ``chat`` holds template, tools, documents and the template's own
        variables; see :class:`~llama_cffi.text.chat.ChatOptions`. The rest is as in :meth:`generate`.

        What messages say is never read as control tokens. Raises :class:`MessageError` for malformed messages and
        :class:`TemplateError` for a model without a template, or one whose template refuses them.
        """
        tokens = self.tokenize_chat(messages, prefix=prefix, **(chat or {}))
        return self.generate(
            tokens,
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            overflow=overflow,
            sampling=sampling,
            **options,
        )

    def stream_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        max_tokens: int | None = None,
        stop: str | SequenceOf[str] = (),
        logprobs: int | None = None,
        overflow: Overflow | None = None,
        sampling: SamplingParams | None = None,
        chat: ChatOptions | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Iterator[Chunk]:
        """:meth:`chat` as an iterator of chunks, as :meth:`stream` gives them."""
        tokens = self.tokenize_chat(messages, prefix=prefix, **(chat or {}))
        return self.stream(
            tokens,
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            overflow=overflow,
            sampling=sampling,
            **options,
        )

    def session(
        self, messages: SequenceOf[Message] = (), *, chat: ChatOptions | None = None, **options: Any
    ) -> ChatSession:
        """A conversation with a history, which can be saved, rewound and forked; see :class:`ChatSession`."""
        return ChatSession(self, messages, chat=chat, **options)

    def tokenize_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        add_generation_prompt: bool = True,
        **options: Unpack[ChatOptions],
    ) -> NDArray[np.int32]:
        """Token ids of a conversation, int32 of shape ``(n,)``, without computing it; raises as :meth:`chat`."""
        rendered = self._format.render(messages, add_generation_prompt=add_generation_prompt, **options)
        return self._format.tokenize(rendered, prefix=prefix)

    def render_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[ChatOptions],
    ) -> str:
        """The conversation as the model's chat template writes it; raises as :meth:`chat`."""
        return self._format.render(messages, add_generation_prompt=add_generation_prompt, **options).text

    @cached_property
    def _format(self) -> ChatFormat:
        # jinja2 takes 40 ms to import, which who does not chat need not pay.
        from llama_cffi.text.chat import ChatFormat

        return ChatFormat(self.model)

    # -- text and tokens

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """Token ids of a text, int32 of shape ``(n,)``; see :meth:`Vocab.tokenize`."""
        return self.model.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(
        self,
        tokens: SequenceOf[int] | NDArray[np.int32],
        *,
        remove_special: bool = False,
        unparse_special: bool = True,
    ) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. See :meth:`Vocab.detokenize`."""
        data = self.model.vocab.detokenize(tokens, remove_special=remove_special, unparse_special=unparse_special)
        return data.decode("utf-8", "replace")

    # -- lifetime

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` ran."""
        return self.context.closed

    def close(self) -> None:
        """Free the context, and the model if this object loaded it. Idempotent."""
        self.context.close()
        if self._owns_model:
            self.model.close()

    def _open_engine(self) -> Engine:
        if self.context.closed:
            raise ClosedError("this Llama is closed")
        return self._engine

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Llama {self.model.path.name!r}: {'closed' if self.closed else self.context}>"


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


def demo_path() -> str:
    """The path of the model that ships with the package."""
    path = Path(__file__).with_name("models") / "demo.gguf"
    if not path.is_file():
        raise ModelFileError("this installation of llama_cffi lacks its demo model")
    return str(path)


def _sampling(sampling: SamplingParams | None, options: SamplingKwargs) -> SamplingParams:
    if sampling is None:
        return SamplingParams(**options)
    if options:
        raise TypeError(f"give sampling= or its fields, not both: {', '.join(options)}")
    return sampling


def _is_list_of_prompts(prompt: object) -> bool:
    if isinstance(prompt, (str, bytes, np.ndarray)) or not isinstance(prompt, SequenceOf):
        return False
    return not len(prompt) or not isinstance(prompt[0], (int, np.integer))


def _context_options(base: ContextOptions | None, model: Model, **overrides: int | None) -> ContextOptions:
    given = {name: value for name, value in overrides.items() if value is not None}
    if base is None:
        trained = model.n_ctx_train
        base = ContextOptions(n_ctx=min(DEFAULT_N_CTX, trained) if trained > 0 else DEFAULT_N_CTX)
    return replace(base, **given)  # type: ignore[arg-type]
